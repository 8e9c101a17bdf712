"""Numbers as text."""

import pytest

from pipecut.quantities import counted


@pytest.mark.parametrize(
    ("count", "thing", "text"),
    [
        (1, "stage", "1 stage"),
        (0, "stage", "0 stages"),
        (2, "microbatch", "2 microbatches"),
        (3, "boundary", "3 boundaries"),
        (10_752, "bus", "10,752 buses"),
    ],
)
def test_a_single_thing_is_singular(count: int, thing: str, text: str) -> None:
    assert counted(count, thing) == text
