"""The same graph for another microbatch, close enough to cost it; what is compiled is traced again."""

from dataclasses import replace
from math import prod

from pipecut.compiler.graph import Graph, Value
from pipecut.plan.schema import evaluate


def with_batch(graph: Graph, microbatch: int) -> Graph:
    """Sizes, strides and bytes for a microbatch of that many samples. The graph's batch must be dynamic."""
    return replace(
        graph, values={name: _resized(value, microbatch) for name, value in graph.values.items()}
    )


def _resized(value: Value, microbatch: int) -> Value:
    sizes = tuple(evaluate(dimension, microbatch) for dimension in value.shape)
    if sizes == value.sizes:
        return value
    before = prod(value.sizes)
    size = value.bytes * prod(sizes) // before if before else value.bytes
    return replace(value, sizes=sizes, strides=_strides(value, sizes), bytes=size)


def _strides(value: Value, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Those it has where only the outermost dimension changes, else dense ones in their order; what repeats stays so."""
    changed = [d for d, (old, new) in enumerate(zip(value.sizes, sizes, strict=True)) if old != new]
    if len(changed) == 1 and value.strides[changed[0]] == max(value.strides):
        return value.strides
    result = [0] * len(sizes)
    step = 1
    for dimension in sorted(range(len(sizes)), key=lambda d: (value.strides[d], -d)):
        if value.strides[dimension] == 0:
            continue
        result[dimension] = step
        step *= sizes[dimension]
    return tuple(result)
