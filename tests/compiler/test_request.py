"""What a caller from Python may ask of a compile."""

import re
from typing import Any

import pytest

from pipecut.compiler.request import Options
from pipecut.errors import UserFileError
from tests.costs import made_cluster, made_device


@pytest.mark.parametrize("lost", [all, 1, "1", (1, "2"), (-1,), (True,), {0}])
def test_lost_devices_are_numbers(lost: Any) -> None:
    message = f"lost {lost!r}: must be a tuple of device numbers from 0, such as (0, 2)"
    with pytest.raises(UserFileError, match=re.escape(message)):
        Options(lost=lost)
    assert Options(lost=(0, 2)).lost == (0, 2)


def test_some_device_must_remain() -> None:
    cluster = made_cluster([made_device()] * 2)
    assert len(cluster.without((1, 1)).devices) == 1
    with pytest.raises(UserFileError, match="all 2 devices of cluster .* are left out; leave out"):
        cluster.without((0, 1))
