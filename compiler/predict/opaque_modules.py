"""Opaque modules on fake tensors: they allocate and keep what they were seen to, and run no code.

What depends on data cannot run without values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipecut.compiler.costs.arguments import empty_tensor
from pipecut.compiler.costs.work import opaque_work
from pipecut.compiler.graph import Graph, Operator, Value
from pipecut.compiler.stages.cut import Cut
from pipecut.model.opaque.nested import tensors_in
from pipecut.plan.schema import Stage


@dataclass(frozen=True)
class _Call:
    """A call: what it makes, and the bytes that it keeps beside its inputs."""

    made: tuple[Value, ...]
    kept_bytes: int


def returning_tensors(stage: Stage) -> Stage:
    """The stage where its opaque modules return tensors alone, as what stands in for them does."""
    modules = [module.model_copy(update={"others": []}) for module in stage.opaque]
    return stage.model_copy(update={"opaque": modules})


def standing_in(graph: Graph, cut: Cut, microbatch: int) -> Callable[..., None]:
    """In place of `put_own_modules`: modules that take the memory of those of a cut."""
    operators = [graph.operators[index] for index in cut.operators]

    def put(stage: nn.Module, *_: Any, **_named: Any) -> None:
        for name in cut.opaque:
            calls = [
                _call(graph, operator, microbatch)
                for operator in operators
                if operator.opaque is not None and operator.opaque.module == name
            ]
            path, _dot, last = name.rpartition(".")
            stage.get_submodule(path).add_module(last, _held(_StandingIn(calls), cut, name))

    return put


def _call(graph: Graph, operator: Operator, microbatch: int) -> _Call:
    assert operator.opaque is not None
    work = opaque_work(operator.opaque, microbatch)
    made = tuple(graph.values[name] for name in graph.results_of(operator))
    return _Call(made, work.saved_own_bytes)


def _held(module: nn.Module, cut: Cut, name: str) -> nn.Module:
    """The module with the parameters and places for the buffers that the real one has."""
    for parameter in cut.parameters:
        made: nn.Parameter | None = None
        for within in _within(parameter.names, name):
            dtype = getattr(torch, parameter.dtype)
            empty = torch.empty(parameter.shape, dtype=dtype)
            made = made or nn.Parameter(empty, requires_grad=parameter.trainable)
            path, _, last = within.rpartition(".")
            _made_at(module, path).register_parameter(last, made)
    for buffer in cut.buffers:
        for within in _within(buffer.names, name):
            _made_at(module, within.rpartition(".")[0])
    return module


def _within(names: Sequence[str], module: str) -> list[str]:
    return [name.removeprefix(f"{module}.") for name in names if name.startswith(f"{module}.")]


def _made_at(module: nn.Module, path: str) -> nn.Module:
    for part in path.split(".") if path else ():
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    return module


class _StandingIn(nn.Module):
    def __init__(self, calls: Sequence[_Call]) -> None:
        super().__init__()
        self.calls, self.so_far = calls, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the call that is next makes: one tensor, or a list of them."""
        call = self.calls[self.so_far % len(self.calls)]
        self.so_far += 1
        apply: Any = _Made.apply
        made = apply(call, *tensors_in((args, kwargs)), *self.parameters())
        return made[0] if len(made) == 1 else list(made)


class _Made(torch.autograd.Function):
    """Makes and keeps what a call does, and gradients of all that needs one."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kept = torch.empty(call.kept_bytes, dtype=torch.uint8)
        ctx.save_for_backward(*tensors, kept)
        made = tuple(empty_tensor(value).detach() for value in call.made)
        ctx.mark_non_differentiable(
            *(t for t, value in zip(made, call.made, strict=True) if not value.needs_grad)
        )
        return made

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        *tensors, _kept = ctx.saved_tensors
        needs = ctx.needs_input_grad[1:]
        pairs = zip(tensors, needs, strict=True)
        return None, *(torch.empty_like(t) if wanted else None for t, wanted in pairs)
