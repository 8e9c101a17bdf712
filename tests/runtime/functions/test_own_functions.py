"""autograd.Functions of a model on ranks: exact under every schedule, precision and replica."""

from pathlib import Path

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.runtime.verify.verify import verify

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
    (tmp_path / "job.yaml").write_text(JOB + CELLS[cell])
    stages_per_rank = SCHEDULES[schedule].stages_per_rank or 2
    replicas = 2 if extra == "two replicas" else 1
    stages = 2 * stages_per_rank
    sizes = SizeOverrides(
        stages=stages, schedule=schedule, stages_per_rank=stages_per_rank, replicas=replicas
    )
    compile(tmp_path / "job.yaml", slow_cores, tmp_path / "plan", Options(sizes))
    result = verify(tmp_path / "plan", steps=2, evaluation=True)
    assert result.passed, result.worst
