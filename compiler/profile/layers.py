"""The layers of a graph, which are timed whole, and the chains in which they run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pipecut.compiler.graph import Graph
from pipecut.compiler.stages.cut import opaque_modules
from pipecut.device.memory import free_bytes

# The share of free memory that a chain may fill: what kernels allocate beside it needs the rest.
FILLED = 0.25


@dataclass(frozen=True)
class Layer:
    """Operators in program order that one layer, or one module outside the layers, has in a row."""

    module: str
    operators: tuple[int, ...]


def layers_of(graph: Graph) -> list[Layer]:
    """The layers in program order. Every operator is in one.

    A module that runs as it is has its own: nothing of it can be timed by itself.
    """
    runs: list[tuple[str, list[int]]] = []
    opaque = set(opaque_modules(graph.operators))
    for index, operator in enumerate(graph.operators):
        is_opaque = operator.module in opaque
        layer = operator.module if is_opaque else _layer_of(operator.module)
        # An operator of no module goes with what is around it.
        around = bool(runs) and not operator.module and runs[-1][0] not in opaque
        if runs and (around or layer == runs[-1][0]):
            runs[-1][1].append(index)
        else:
            runs.append((layer, [index]))
    return [Layer(layer, tuple(indices)) for layer, indices in runs]


def _layer_of(module: str) -> str:
    """`model.layers.3` of `model.layers.3.mlp.up`; without a number the outermost module."""
    parts = module.split(".")
    numbers = [at for at, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else parts[0]


def chains_of(graph: Graph, layers: Sequence[Layer], device: torch.device) -> Iterator[list[Layer]]:
    """The layers in order, so many at a time that what they hold fits well into memory."""
    limit = FILLED * free_bytes(device)
    chain: list[Layer] = []
    filled = 0
    for layer in layers:
        size = held_bytes(graph, layer)
        if chain and filled + size > limit:
            yield chain
            chain, filled = [], 0
        chain.append(layer)
        filled += size
    if chain:
        yield chain


def held_bytes(graph: Graph, layer: Layer) -> int:
    """Bytes of a layer's results, its parameters and their gradients."""
    operators = [graph.operators[index] for index in layer.operators]
    results = sum(graph.values[o.name].bytes for o in operators if o.name in graph.values)
    used = {name for operator in operators for name in operator.inputs}
    return results + sum(2 * p.bytes for p in graph.parameters if p.value in used)
