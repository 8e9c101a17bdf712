"""Gradient hooks of parameters on ranks: each microbatch calls them once, as the model does."""

from pathlib import Path

import pytest

from pipecut.compiler import SizeOverrides
from tests.runtime.exact import exact_plan

JOB = """
model: {factory: "tests.models.nothing_lost.hooked:hooked"}
inputs: "tests.models.nothing_lost.hooked:rows"
batch: {global: 8, microbatch: 2}
optimizer: adamw
"""
CELLS = {
    "1f1b, replicas": "data_parallel: 2\n",
    "zb-h1, recompute, last microbatch smaller": "recompute: always\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_a_plan_computes_what_the_unsplit_model_does(
    cell: str, slow_cores: str, tmp_path: Path
) -> None:
    job = JOB + CELLS[cell]
    if "smaller" in cell:
        job = job.replace("microbatch: 2", "microbatch: 3")
    sizes = SizeOverrides(stages=2, schedule=cell.partition(", ")[0])
    plan = exact_plan(tmp_path, job, slow_cores, sizes)
    opaque = {module.name for stage in plan.stages for module in stage.opaque}
    assert {"layers.0", "layers.3"} <= opaque
