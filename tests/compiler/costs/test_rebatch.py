"""A graph for another microbatch has the sizes that a trace of that microbatch has."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecut.compiler.costs.rebatch import with_batch
from pipecut.compiler.graph import Graph, Value
from tests.compiler.graphs import SAMPLES, graph, value


def resized(tensor: Value, microbatch: int) -> Value:
    return with_batch(graph([], [tensor]), microbatch).values[tensor.name]


@pytest.mark.parametrize(
    ("tensor", "sizes", "strides"),
    [
        (value("x", "batch", 4), (5, 4), (4, 1)),
        (value("x", "3*batch"), (15,), (1,)),
        (value("x", 4, "batch"), (4, 5), (5, 1)),
        (value("x", "batch", 4, 3, strides=(12, 1, 4)), (5, 4, 3), (12, 1, 4)),
        # Expanded over the batch: one row stands for all.
        (value("x", "batch", 4, strides=(0, 1)), (5, 4), (0, 1)),
        (value("x", 3, "batch", 4, strides=(0, 4, 1)), (3, 5, 4), (0, 4, 1)),
    ],
)
def test_sizes_follow_the_batch_and_strides_the_layout(
    tensor: Value, sizes: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    other = resized(tensor, 5)
    assert (other.sizes, other.strides) == (sizes, strides)
    assert other.bytes == prod(sizes) * 4
    assert other.shape == tensor.shape


def test_what_does_not_follow_the_batch_stays() -> None:
    tensor = value("w", 3, 4)
    assert resized(tensor, 9) is tensor


@given(st.integers(1, 64), st.permutations(["batch", "2*batch", 3, 5]))
def test_there_and_back_is_the_same(microbatch: int, shape: list[int | str]) -> None:
    before: Graph = graph([], [value("x", *shape)])
    assert with_batch(with_batch(before, microbatch), SAMPLES) == before
