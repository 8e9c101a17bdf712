"""Traces of the golden models, as text."""

from pathlib import Path

import pytest

from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.trace.trace import trace
from tests.golden import check_golden
from tests.models.golden import NAMES, golden_job


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_model_is_traced_as_before(name: str, tmp_path: Path) -> None:
    check_golden(f"trace_{name}", str(trace(read_job(golden_job(tmp_path, name).job))))
