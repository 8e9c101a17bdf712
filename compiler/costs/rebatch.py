"""The same graph for other sizes, to cost it; what is compiled is traced again."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from pipecut.compiler.graph import Graph, Value
from pipecut.plan.schema import Sizes, evaluate


def with_batch(graph: Graph, microbatch: int) -> Graph:
    """The graph with sizes, strides and bytes for a microbatch; its batch must be dynamic."""
    return _with_sizes(graph, graph.sizes(microbatch))


def with_lengths(graph: Graph, microbatch: int, lengths: Mapping[str, int]) -> Graph:
    """The graph of a microbatch, traced for so many samples, at other lengths."""
    of_lengths = replace(graph, lengths=dict(lengths))
    return _with_sizes(of_lengths, of_lengths.sizes(microbatch))


def _with_sizes(graph: Graph, sizes: Sizes) -> Graph:
    values = {name: _resized(value, sizes) for name, value in graph.values.items()}
    return replace(graph, values=values)


def _resized(value: Value, of: Sizes) -> Value:
    sizes = tuple(evaluate(dimension, of) for dimension in value.shape)
    if sizes == value.sizes:
        return value
    elements = prod(value.sizes)
    size = value.bytes * prod(sizes) // elements if elements else value.bytes
    return replace(value, sizes=sizes, strides=_strides(value, sizes), bytes=size)


def _strides(value: Value, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The value's strides where only the outermost dimension changes; else dense ones.

    Dense strides keep the dimensions' order in memory, and a stride of 0, which repeats, stays 0.
    """
    changed = [
        dimension
        for dimension, (old, new) in enumerate(zip(value.sizes, sizes, strict=True))
        if old != new
    ]
    if len(changed) == 1 and value.strides[changed[0]] == max(value.strides):
        return value.strides
    strides = [0] * len(sizes)
    dense_stride = 1
    # Of two dimensions with one stride, the later one is the inner one.
    for dimension in sorted(range(len(sizes)), key=lambda d: (value.strides[d], -d)):
        if value.strides[dimension]:
            strides[dimension] = dense_stride
            dense_stride *= sizes[dimension]
    return tuple(strides)
