"""Two hosts under torchrun, as network namespaces: a lost rank is named, the training continues."""

import os
import shutil
import sys

import pytest

from benchmarks.faults.hosts import main


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or bool(os.geteuid()) or shutil.which("ip") is None,
    reason="network namespaces need root on Linux",
)
def test_a_killed_rank_of_another_host_is_named_and_the_training_goes_on() -> None:
    assert main(["kill"]) == 0
