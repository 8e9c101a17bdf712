"""Loss and gradients of a step are those of the whole batch, means and sums, whatever its size."""

from pathlib import Path

import torch

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.plan.part.read import read_part
from pipecut.runtime.pipeline import Pipeline
from pipecut.runtime.ranks.world import join_world
from tests.conftest import SLOW_CORES
from tests.models.checkpoint import summing
from tests.models.core import mlp, vectors

JOB = """
model: {{factory: "{factory}"}}
inputs: "tests.models.core:vectors"
batch: {{global: 8, microbatch: 2}}
reduction: {reduction}
"""
NOTE = "adds up samples, and a step takes the mean"


def pipeline(folder: Path, factory: str, reduction: str) -> Pipeline:
    """Of one rank; its plan's notes are those of the compile."""
    (folder / "cores.yaml").write_text(SLOW_CORES)
    job = folder / "job.yaml"
    job.write_text(JOB.format(factory=factory, reduction=reduction))
    one_stage = Options(SizeOverrides(stages=1))
    compile(job, str(folder / "cores.yaml"), folder / "plan", one_stage)
    part = read_part(folder / "plan", 0)
    return Pipeline(part, join_world(part.plan, "cpu"))


def check_whole(pipe: Pipeline, model: torch.nn.Module, count: int, share: float = 1.0) -> None:
    """A step of so many samples beside one forward and backward of all of them."""
    model.load_state_dict(pipe.state_dict())
    batch = vectors(count)
    expected = model(**batch) * share
    expected.backward()
    torch.testing.assert_close(pipe.step(**batch), expected.detach())
    gradients = dict(model.named_parameters())
    for name, parameter in pipe.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad)
        parameter.grad = None
    model.zero_grad()


def test_a_mean_over_samples(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path, "tests.models.core:mlp", "samples")
    assert not any(NOTE in note for note in pipe.plan.notes)
    # A whole batch, one whose last microbatch is smaller, and smaller ones, spread over all four.
    for count in (8, 7, 5, 4):
        check_whole(pipe, mlp(), count)


def test_a_sum_over_samples(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path, "tests.models.checkpoint:summing", "sum")
    assert not any(NOTE in note for note in pipe.plan.notes)
    for count in (8, 5):
        check_whole(pipe, summing(), count)


def test_a_sum_that_is_taken_as_a_mean_is_noted(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path, "tests.models.checkpoint:summing", "samples")
    assert sum(NOTE in note for note in pipe.plan.notes) == 1
    check_whole(pipe, summing(), 8, share=1 / 4)
