"""Sizes that depend on data on ranks: exact under every schedule."""

from pathlib import Path

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.runtime.verify.verify import verify

JOB = """
model: {{factory: "tests.models.data_sizes.rows:chosen", args: {{kind: {kind}}}}}
inputs: "tests.models.data_sizes.rows:rows"
batch: {{global: 14, microbatch: 4}}
optimizer: adamw
"""
TAGGER = """
model: {factory: "tests.models.data_sizes.rows:tagger"}
inputs: "tests.models.data_sizes.rows:tokens"
loss: "tests.models.data_sizes.rows:of_labelled"
batch: {global: 14, microbatch: 4}
optimizer: adamw
"""
KINDS = ("masked", "selected", "put", "repeated", "places", "distinct", "equal", "counted", "asked")
CELLS = {
    **{f"{kind}, 1f1b": "" for kind in KINDS},
    "routed, gpipe": "recompute: always\n",
    "routed, zb-h1": "",
    "routed, interleaved": "",
    "put, v-shaped": "precision: bf16\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_a_plan_computes_what_the_unsplit_model_does(
    cell: str, slow_cores: str, tmp_path: Path
) -> None:
    kind, _, schedule = cell.partition(", ")
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(kind=kind) + CELLS[cell])
    stages_per_rank = SCHEDULES[schedule].stages_per_rank or 2
    stages = 2 if stages_per_rank == 1 else 4
    sizes = SizeOverrides(stages=stages, schedule=schedule, stages_per_rank=stages_per_rank)
    plan = compile(job, slow_cores, tmp_path / "plan", Options(sizes)).plan
    assert all(stage.passes is not None for stage in plan.stages)
    result = verify(tmp_path / "plan", steps=2, evaluation=True)
    assert result.passed, result.worst


@pytest.mark.slow
def test_a_loss_of_the_tokens_that_have_a_label(slow_cores: str, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(TAGGER)
    plan = compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=3))).plan
    # What a mask selects stays on the last stage.
    assert all("u0" not in str(tensor.shape) for b in plan.boundaries for tensor in b.tensors)
    result = verify(tmp_path / "plan", steps=2, evaluation=True)
    assert result.passed, result.worst
