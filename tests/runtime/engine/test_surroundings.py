"""A step computes the same whatever surrounds it and however parameters were changed."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import RunError
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.pipeline import Pipeline, load_pipeline
from pipecut.runtime.ranks.world import leave_world
from tests.conftest import SLOW_CORES
from tests.models.numerics import WIDTH
from tests.parameters import rank_parameter


@contextmanager
def default_dtype(dtype: torch.dtype) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default_dtype": lambda: default_dtype(torch.float64),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
}


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A plan of two stages on one rank, by precision."""
    folder = tmp_path_factory.mktemp("plans")
    (folder / "slow.yaml").write_text(SLOW_CORES)
    for precision in ("fp32", "bf16"):
        job = folder / f"{precision}.yaml"
        job.write_text(
            'model: {factory: "tests.models.numerics:plain"}\n'
            'inputs: "tests.models.numerics:vectors"\n'
            f"batch: {{global: 8, microbatch: 2}}\nprecision: {precision}\n"
        )
        sizes = SizeOverrides(stages=2, schedule="interleaved", stages_per_rank=2)
        compile(job, str(folder / "slow.yaml"), folder / precision, Options(sizes))
    return {precision: folder / precision for precision in ("fp32", "bf16")}


@pytest.fixture
def load(plans: dict[str, Path]) -> Iterator[Callable[..., Pipeline]]:
    """A pipeline in this process."""
    pipes: list[Pipeline] = []

    def make(precision: str = "fp32", around: Any = nullcontext) -> Pipeline:
        with around():
            pipes.append(load_pipeline(plans[precision], "cpu"))
        return pipes[-1]

    yield make
    for pipe in pipes:
        leave_world(pipe.world)


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(8, WIDTH, dtype=torch.float32) for name in ("x", "target")}


def stepped(
    pipe: Pipeline, around: Callable[[], AbstractContextManager[Any]]
) -> list[torch.Tensor]:
    with around():
        loss = pipe.step(**batch())
        evaluated = pipe.eval_step(**batch())
    gradients = [p.grad for p in pipe.parameters() if p.grad is not None]
    for parameter in pipe.parameters():
        parameter.grad = None
    return [loss, evaluated, *gradients]


def test_a_step_is_the_same_whatever_surrounds_it(load: Any) -> None:
    pipe = load()
    expected = stepped(pipe, nullcontext)
    assert len(expected) > 4
    for name, around in SURROUNDINGS.items():
        for found, want in zip(stepped(pipe, around), expected, strict=True):
            assert found.dtype == want.dtype and torch.equal(found, want), name
    assert not torch.is_autocast_enabled("cpu") and torch.get_default_dtype() == torch.float32


def test_a_pipeline_loaded_in_inference_mode_trains(load: Any) -> None:
    pipe = load(around=torch.inference_mode)
    assert all(tensor.isfinite().all() for tensor in stepped(pipe, torch.inference_mode))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_parameters_written_in_any_way_are_those_of_the_next_step(
    precision: str, load: Any
) -> None:
    pipe = load(precision)
    first = pipe.step(**batch())

    def replaced(parameter: nn.Parameter) -> None:
        parameter.data = parameter.data * 0.5

    def halved(parameter: nn.Parameter) -> None:
        with torch.no_grad():
            parameter.mul_(0.5)

    ways = {
        "data": lambda p: p.data.mul_(0.5),
        "replaced": replaced,
        "in place": halved,
        "numpy": lambda p: p.detach().numpy().__imul__(0.5),
    }
    losses = {}
    original = {name: p.detach().clone() for name, p in pipe.named_parameters()}
    for name, write in ways.items():
        for parameter in pipe.parameters():
            write(parameter)
        losses[name] = pipe.step(**batch())
        pipe.load_state_dict({**pipe.state_dict(), **original})
        assert torch.equal(pipe.step(**batch()), first)
    assert len({float(loss) for loss in losses.values()}) == 1
    assert not torch.equal(losses["data"], first)


def test_what_a_stage_cannot_follow_is_refused(load: Any) -> None:
    pipe = load("bf16")
    name, parameter = next(iter(pipe.named_parameters()))
    parameter.requires_grad_(False)
    with pytest.raises(RunError, match=f"parameter '{name}' takes no gradient any more.*factory"):
        pipe.step(**batch())
    parameter.requires_grad_(True)
    handle = parameter.register_hook(lambda gradient: gradient)
    with pytest.raises(RunError, match=f"parameter '{name}' has a hook that is never called"):
        pipe.step(**batch())
    handle.remove()
    pipe.step(**batch())
    with torch.no_grad():
        next(p.model for p in pipe.model.parameters if p.name == name).zero_()
    with pytest.raises(
        RunError, match=f"parameter '{name}' was written in the stage.*load_state_dict"
    ):
        pipe.step(**batch())
    with pytest.raises(RunError, match=f"load_state_dict: '{name}' of this rank is missing"):
        pipe.load_state_dict({})


def test_masters_are_copied_whoever_wrote_them() -> None:
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    parameter = rank_parameter(weight)
    masters = Masters([parameter])
    masters.refresh()
    parameter.master.data.add_(1.0)
    masters.refresh()
    assert (
        torch.equal(weight, torch.full((4,), 2.0, dtype=torch.bfloat16)) and not masters.written()
    )
    with torch.no_grad():
        weight.zero_()
    assert masters.written() == [parameter]
