"""Time every distinct operator of a graph by itself on a real device."""

import itertools
from collections.abc import Callable
from typing import Any

import torch

from pipecut.compiler.costs.arguments import concrete
from pipecut.compiler.costs.work import identity
from pipecut.compiler.graph import Graph, Operator
from pipecut.compiler.operators.lookup import resolve
from pipecut.compiler.operators.table import GETITEM
from pipecut.compiler.profile.inputs import random_inputs
from pipecut.compiler.profile.store import key_of
from pipecut.compiler.profile.timing import Timed, time_passes
from pipecut.plan.schema import Sizes

# Weights are cold in a step: copies of so many bytes, and at most so many, are used in turn.
COLD_BYTES, MOST_COPIES = 64 * 2**20, 8


def operator_key(operator: Operator, graph: Graph, microbatch: int) -> str:
    """What a measurement depends on: target, sizes, strides, dtypes, arguments."""
    lengths = (tuple(graph.lengths.items()),) if graph.lengths else ()
    return key_of(("operator", microbatch, identity(operator, graph), *lengths))


def time_operator(
    operator: Operator, graph: Graph, microbatch: int, device: torch.device
) -> Timed | None:
    """Forward and backward; None where it cannot run by itself, or is no computation."""
    if operator.opaque is not None:
        # Part of the time of the layer that it is in.
        return None
    if operator.target == GETITEM or any(name not in graph.values for name in operator.inputs):
        return None
    parameters = {parameter.value for parameter in graph.parameters}
    copies = range(_copies(operator, graph, parameters))
    try:
        inputs = [random_inputs(operator, graph, device, seed) for seed in copies]
        calls = [_call(operator, tensors, graph.sizes(microbatch)) for tensors in inputs]
        return _time(calls, inputs, parameters, _differentiable(operator, inputs[0]), device)
    except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError):
        return None


def _time(
    calls: list[Callable[[], Any]],
    inputs: list[dict[str, torch.Tensor]],
    parameters: set[str],
    grad: bool,
    device: torch.device,
) -> Timed:
    turns = itertools.cycle(range(len(calls)))

    def prepare() -> int:
        turn = next(turns)
        for name, tensor in inputs[turn].items():
            # A parameter's gradient is added to; any other is new in each step.
            tensor.grad = tensor.grad if name in parameters else None
        return turn

    def forward(turn: int) -> Any:
        with torch.set_grad_enabled(grad):
            return calls[turn]()

    return time_passes(prepare, forward, _backward if grad else None, device)


def _backward(result: Any) -> None:
    results = result if isinstance(result, list | tuple) else [result]
    outputs = [output for output in results if output.requires_grad]
    if outputs:
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])


def _differentiable(operator: Operator, tensors: dict[str, torch.Tensor]) -> bool:
    """Whether autograd records it: it refuses a write to a leaf."""
    writes = [tensors[name].requires_grad for name in operator.writes if name in tensors]
    return any(t.requires_grad for t in tensors.values()) and not any(writes)


def _copies(operator: Operator, graph: Graph, parameters: set[str]) -> int:
    size = sum(graph.values[name].bytes for name in operator.inputs if name in parameters)
    return min(MOST_COPIES, 1 + COLD_BYTES // size) if size else 1


def _call(operator: Operator, tensors: dict[str, torch.Tensor], sizes: Sizes) -> Callable[[], Any]:
    function = resolve(operator.target)
    device = next((t.device for t in tensors.values()), torch.device("cpu"))
    args = concrete(operator.args, tensors, sizes, device)
    kwargs = {name: concrete(value, tensors, sizes, device) for name, value in operator.kwargs}
    return lambda: function(*args, **kwargs)
