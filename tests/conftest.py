"""Fixtures of all tests: a user's state folder, job files and a cluster of slow cores."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.slow_cores import SLOW_CORES
from pipecut.rare_collections import collect_no_more, collect_rarely

JOB = """
model: {{factory: "tests.models.core:{name}"}}
inputs: "tests.models.core:{inputs}"
batch: {{global: 8, microbatch: 2}}
"""


def pytest_configure() -> None:
    """Collect garbage rarely, as a compile does."""
    collect_rarely()


def pytest_unconfigure() -> None:
    """End at once."""
    collect_no_more()


@pytest.fixture(autouse=True, scope="session")
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the list of trusted plans apart from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[..., Path]:
    """Write a job file for a model of tests/models/core.py."""

    def write(name: str, inputs: str, loss: str | None = None, extra: str = "") -> Path:
        path = tmp_path / f"{name}.yaml"
        text = JOB.format(name=name, inputs=inputs)
        path.write_text(text + (f'loss: "tests.models.core:{loss}"\n' if loss else "") + extra)
        return path

    return write


@pytest.fixture
def slow_cores(tmp_path: Path) -> str:
    """A cluster so slow at computing that even tiny models are cut evenly."""
    path = tmp_path / "slow-cores.yaml"
    path.write_text(SLOW_CORES)
    return str(path)
