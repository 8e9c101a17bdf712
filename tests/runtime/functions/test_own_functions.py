"""autograd.Functions of a model on ranks: exact under every schedule, precision and replica."""

from pathlib import Path

import pytest

from pipecut.compiler import SizeOverrides
from pipecut.compiler.schedules.registry import SCHEDULES
from tests.runtime.exact import exact_plan

JOB = """
model: {factory: "tests.models.own_functions:own"}
inputs: "tests.models.own_functions:rows"
batch: {global: 8, microbatch: 2}
optimizer: adamw
"""
CELLS = {
    "1f1b": "",
    "gpipe, recompute": "recompute: always\n",
    "zb-h1": "",
    "interleaved, bf16": "precision: bf16\n",
    "1f1b, two replicas": "",
}


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_a_plan_computes_what_the_unsplit_model_does(
    cell: str, slow_cores: str, tmp_path: Path
) -> None:
    schedule, _, extra = cell.partition(", ")
    stages_per_rank = SCHEDULES[schedule].stages_per_rank or 2
    replicas = 2 if extra == "two replicas" else 1
    stages = 2 * stages_per_rank
    sizes = SizeOverrides(
        stages=stages, schedule=schedule, stages_per_rank=stages_per_rank, replicas=replicas
    )
    exact_plan(tmp_path, JOB + CELLS[cell], slow_cores, sizes, evaluation=True)
