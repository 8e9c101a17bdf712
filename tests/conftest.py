"""Warnings of ours are errors; those of torch and transformers are theirs."""

from collections.abc import Callable
from pathlib import Path

import pytest

JOB = """
model: {{factory: "tests.models:{name}"}}
inputs: "tests.models:{inputs}"
batch: {{global: 8, microbatch: 2}}
"""


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[..., Path]:
    """Write a job file for a model of tests/models.py."""

    def write(name: str, inputs: str, loss: str | None = None, extra: str = "") -> Path:
        path = tmp_path / f"{name}.yaml"
        text = JOB.format(name=name, inputs=inputs)
        path.write_text(text + (f'loss: "tests.models:{loss}"\n' if loss else "") + extra)
        return path

    return write
