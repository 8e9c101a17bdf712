"""An operator's code means what the operator does."""

from pathlib import Path

import pytest
import torch

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.plan.folder import read_plan
from pipecut.runtime.engine.stage import build_module
from tests.models.sizes import rows, sizes

JOB = """
model: {factory: "tests.models.sizes:sizes"}
inputs: "tests.models.sizes:rows"
batch: {global: 8, microbatch: 2}
"""


@pytest.mark.parametrize("samples", [2, 3, 4, 7])
def test_what_counts_with_the_batch_size_is_the_models_own(samples: int, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    compile(
        tmp_path / "job.yaml",
        "auto",
        tmp_path / "plan",
        Options(SizeOverrides(stages=1), costs="roofline"),
    )
    plan = read_plan(tmp_path / "plan").plan
    model, batch = sizes(), rows(samples)
    stage = build_module(tmp_path / "plan", plan, plan.stages[0], torch.device("cpu"))
    stage.load_state_dict(model.state_dict())
    assert torch.equal(stage(batch["x"])[0], model(**batch))
