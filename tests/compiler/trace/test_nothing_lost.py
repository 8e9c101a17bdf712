"""What a traced graph may lose without a word is exact in stages, or refused while compiling."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.stages.cut import Cut
from pipecut.compiler.trace.trace import trace
from pipecut.errors import TraceError
from pipecut.model.draws import Draws, StageDraws
from tests.compiler.stages.test_models import Split, Tensors
from tests.compiler.trace.lossy import lossy, rows

JOB = """
model: {{factory: "tests.compiler.trace.lossy:lossy", args: {{kind: {kind}}}}}
inputs: "tests.compiler.trace.lossy:rows"
batch: {{global: 8, microbatch: 2}}
"""
EXACT = (
    *("autograd_function", "reentrant_checkpoint", "linalg"),
    *("assigned_buffer", "unused_parameter", "randomness"),
)
REFUSED = {
    "tensor_hook": r"registers .*lossy.py:\d+\) as a hook",
    "parameter_hook": r"'inner.weight' has a gradient hook, .*lossy.py:\d+",
    "scripted": "'inner' is TorchScript",
    "python_random": "draws from Python's random",
    "numpy_random": "draws from Python's numpy.random",
    "python_state": r"'calls' changes .*lossy.py:\d+",
}


class SeededSplit(Split):
    """Stages that draw as ranks do: each by the numbers of its own draws."""

    def _run(self, c: Cut, module: nn.Module, values: Tensors) -> tuple[torch.Tensor, ...]:
        numbers = [number for at in c.operators for number in self.graph.operators[at].draws]
        with StageDraws(0, numbers):
            return super()._run(c, module, values)


def job(kind: str, folder: Path) -> Path:
    (folder / "job.yaml").write_text(JOB.format(kind=kind))
    return folder / "job.yaml"


@pytest.mark.parametrize("kind", EXACT)
def test_stages_do_what_the_model_does(kind: str, tmp_path: Path) -> None:
    split = SeededSplit(trace(read_job(job(kind, tmp_path))), 3)
    torch.manual_seed(0)
    model, batch = lossy(kind), rows(2)
    split.load(copy.deepcopy(model.state_dict()))
    with Draws(seed=0):
        expected = model(**batch)
        expected.backward()
    loss = split.loss(batch, evaluation=False)
    loss.backward()
    assert torch.equal(loss, expected)
    gradients = split.gradients()
    trained = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == trained.keys()
    assert all(torch.equal(gradients[name], gradient) for name, gradient in trained.items())
    buffers = {n: b for module in split.modules for n, b in module.named_buffers()}
    assert all(torch.equal(buffers[name], b) for name, b in model.named_buffers())


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_what_stages_cannot_do_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=REFUSED[kind]):
        trace(read_job(job(kind, tmp_path)))
