"""Random draws are numbered in the model's order; what no seed reaches is refused."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.stages.cut import opaque_modules
from pipecut.compiler.trace.trace import trace
from pipecut.errors import TraceError, UserFileError

GENERATOR = torch.Generator()
JOB = """
model: {{factory: "{module}:{name}"}}
inputs: "tests.models.numerics:{inputs}"
batch: {{global: 8, microbatch: 2}}
"""


class Layers(nn.Module):
    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.between = between
        self.first, self.last = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(self.last(self.between(self.first(x))), target)


def of_python() -> nn.Module:
    return Layers(lambda x: x if random.random() < 0.5 else -x)


class Drawing(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * float(numpy.random.rand())


def within() -> nn.Module:
    layers = Layers(lambda x: x)
    layers.between = nn.Sequential(nn.ReLU(), Drawing(32, 32))
    return layers


def of_numpy() -> nn.Module:
    return Layers(lambda x: x * float(numpy.random.rand()))


def _seeded(x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    return x + torch.randn_like(x)


def seeding() -> nn.Module:
    return Layers(_seeded)


def own_generator() -> nn.Module:
    return Layers(lambda x: x * torch.empty_like(x).bernoulli_(0.5, generator=GENERATOR))


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Path]:
    def write(
        name: str, inputs: str = "vectors", extra: str = "", module: str = "tests.models.numerics"
    ) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(JOB.format(module=module, name=name, inputs=inputs) + extra)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("of_python", "Python's random"),
        ("of_numpy", "Python's numpy.random"),
        ("seeding", "seeds torch's random numbers"),
        ("own_generator", r"torch\.Generator of its own"),
    ],
)
def test_numbers_that_no_seed_reaches_are_refused(name: str, said: str, job: Any) -> None:
    with pytest.raises(TraceError, match=said):
        trace(read_job(job(name, module=__name__)))


def test_a_module_within_that_draws_such_numbers_runs_as_it_is(job: Any) -> None:
    graph = trace(read_job(job("within", module=__name__)))
    assert opaque_modules(graph.operators) == ("between.1",)
    (note,) = graph.notes
    assert note.startswith("between.* runs as it is: the model's forward draws from")


def test_draws_are_numbered_as_the_model_makes_them(job: Any) -> None:
    graph = trace(read_job(job("noisy")))
    numbers = [number for operator in graph.operators for number in operator.draws]
    # The fifteenth is of an operator that the loss does not need; the model draws it nevertheless.
    assert numbers == [*range(14), 15]
    graph = trace(read_job(job("recurrent", "sequences")))
    assert [operator.draws for operator in graph.operators if operator.draws] == [
        (0,),
        (1, 2),
        (3,),
    ]


def test_compiled_stages_refuse_random_draws_by_operator_and_line(
    job: Any, slow_cores: str, tmp_path: Path
) -> None:
    path = job("noisy", extra="compile: inductor\n")
    with pytest.raises(
        UserFileError,
        match=r"noisy.yaml:5:1: .*numerics\.py:\d+\) and 14 more draws.*compile: eager",
    ):
        compile(path, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2)))


def test_dropout_inside_a_recurrent_operator_is_refused_for_gpus(job: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UserFileError, match=r"lstm of lstm .*draws random numbers: on a GPU.*dropout=0"
    ):
        compile(
            job("recurrent", "sequences"),
            "hgx-h100",
            tmp_path / "plan",
            Options(SizeOverrides(stages=2)),
        )
