"""The loss of a step is the mean over its microbatches in float32, whatever the model's dtype."""

from pathlib import Path
from typing import Any

import torch

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.plan.part.read import read_part
from pipecut.runtime.pipeline import Pipeline
from pipecut.runtime.ranks.world import join_world


def test_half_precision_losses_are_summed_in_full(
    write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    job = write_job("mlp", "vectors", extra="precision: bf16\n")
    job.write_text(job.read_text().replace("global: 8, microbatch: 2", "global: 32, microbatch: 1"))
    compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=1)))
    part = read_part(tmp_path / "plan", 0)
    pipe = Pipeline(part, join_world(part.plan, "cpu"))
    torch.manual_seed(0)
    batch = {name: torch.randn(32, 32) for name in ("x", "target")}
    each = [
        pipe.eval_step(**{name: tensor[at : at + 1] for name, tensor in batch.items()})
        for at in range(32)
    ]
    assert all(loss == loss.bfloat16() for loss in each)
    loss = pipe.step(**batch)
    assert loss.dtype == torch.float32
    assert torch.isclose(loss, torch.stack(each).double().mean().float(), rtol=1e-6)
    assert loss != loss.bfloat16()
