"""Time every distinct operator of a graph by itself on a real device."""

from collections.abc import Callable
from typing import Any

import torch

from pipecut.compiler.costs.work import concrete, identity
from pipecut.compiler.graph import Graph, Operator
from pipecut.compiler.operators.lookup import resolve
from pipecut.compiler.operators.table import GETITEM
from pipecut.compiler.profile.inputs import random_inputs
from pipecut.compiler.profile.store import key_of
from pipecut.compiler.profile.timing import Timed, time_passes

# Weights are cold in a step: so many bytes of copies are used in turn.
COLD = 64 * 2**20
COPIES = 8


def operator_key(operator: Operator, graph: Graph, microbatch: int) -> str:
    """What a measurement depends on: target, sizes, strides, dtypes, arguments."""
    return key_of(("operator", microbatch, identity(operator, graph)))


def time_operator(
    operator: Operator, graph: Graph, microbatch: int, device: torch.device
) -> Timed | None:
    """Forward and backward; None where it cannot run by itself, or is nothing."""
    if operator.target == GETITEM or any(name not in graph.values for name in operator.inputs):
        return None
    function = resolve(operator.target)
    held = {parameter.value for parameter in graph.parameters}
    try:
        sets = [
            random_inputs(operator, graph, device, seed)
            for seed in range(_copies(operator, graph, held))
        ]
        grad = any(t.requires_grad for t in sets[0].values())
        # Autograd refuses a write to a leaf.
        grad = grad and not any(
            sets[0][name].requires_grad for name in operator.writes if name in sets[0]
        )
        calls = [_call(function, operator, tensors, microbatch) for tensors in sets]
        turn = iter(range(10**9))

        def prepare() -> int:
            at = next(turn) % len(calls)
            for name, tensor in sets[at].items():
                # A parameter's gradient is added to, another's is new.
                tensor.grad = tensor.grad if name in held else None
            return at

        def forward(at: int) -> Any:
            with torch.set_grad_enabled(grad):
                return calls[at]()

        def backward(outputs: Any) -> None:
            wanted = [
                o
                for o in (outputs if isinstance(outputs, list | tuple) else [outputs])
                if o.requires_grad
            ]
            if wanted:
                torch.autograd.backward(wanted, [torch.ones_like(o) for o in wanted])

        return time_passes(prepare, forward, backward if grad else None, device)
    except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError):
        return None


def _copies(operator: Operator, graph: Graph, held: set[str]) -> int:
    size = sum(graph.values[name].bytes for name in operator.inputs if name in held)
    return min(COPIES, 1 + COLD // size) if size else 1


def _call(
    function: Any, operator: Operator, tensors: dict[str, torch.Tensor], microbatch: int
) -> Callable[[], Any]:
    device = next((t.device for t in tensors.values()), torch.device("cpu"))
    args = concrete(operator.args, tensors, microbatch, device)
    kwargs = {name: concrete(value, tensors, microbatch, device) for name, value in operator.kwargs}
    return lambda: function(*args, **kwargs)
