"""Random inputs of the right kind for one operator.

Indices are in range, offsets rise, and all else are numbers.
"""

import torch

from pipecut.compiler.graph import Graph, Operator, Value
from pipecut.compiler.operators.lookup import rule_of
from pipecut.compiler.operators.rule import Indices


def random_inputs(
    operator: Operator, graph: Graph, device: torch.device, seed: int
) -> dict[str, torch.Tensor]:
    """A tensor for each input, with its sizes, strides and dtype.

    Leaves that need gradients where the graph's values do.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    first = graph.values[operator.inputs[0]] if operator.inputs else None
    tensors = {}
    for position, name in enumerate(operator.inputs):
        value = graph.values[name]
        if position == rule_of(operator.target).offsets:
            rows = graph.values[operator.inputs[0]].sizes[0]
            tensor = _offsets(value, rows).to(device)
        else:
            tensor = _random(value, _limit(operator, first or value), generator).to(device)
        needs_grad = value.needs_grad and tensor.is_floating_point()
        tensors[name] = tensor.requires_grad_() if needs_grad else tensor
    return tensors


def _offsets(value: Value, rows: int) -> torch.Tensor:
    """The end of each group, of about equally many rows."""
    offsets = torch.linspace(0, rows, value.sizes[0] + 1)[1:]
    return offsets.to(getattr(torch, value.dtype))


def _limit(operator: Operator, first: Value) -> int:
    """The least that an integer must stay below, by what it indexes in the first input."""
    indices = rule_of(operator.target).indices
    if indices is Indices.CLASSES and len(first.sizes) > 1:
        return first.sizes[1]
    if indices is Indices.ROWS and first.sizes:
        return first.sizes[0]
    return max(1, min(first.sizes, default=1))


def _random(value: Value, limit: int, generator: torch.Generator) -> torch.Tensor:
    dtype = getattr(torch, value.dtype)
    tensor = torch.empty_strided(value.sizes, value.strides, dtype=dtype)
    # A dimension of stride 0 repeats: it is filled through one of its copies.
    once = tensor[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in value.strides)]
    if dtype == torch.bool:
        once.copy_(torch.rand(once.shape, generator=generator) < 0.5)
    elif dtype.is_floating_point or dtype.is_complex:
        once.copy_(torch.randn(once.shape, generator=generator))
    else:
        once.copy_(torch.randint(0, max(1, limit), once.shape, generator=generator))
    return tensor
