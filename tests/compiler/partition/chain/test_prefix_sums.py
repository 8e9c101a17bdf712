"""Sums along the order of the blocks, counted by hand."""

from dataclasses import replace

from pipecut.compiler.partition.chain.prefix_sums import (
    Tensors,
    duplicate_seconds,
    received_bytes,
    sums_before,
    work_before,
)
from pipecut.compiler.partition.problem import Problem, SharedParameter
from tests.compiler.partition.problems import block, chain, device, tensor

MASK = SharedParameter("mask", 0, (1, 3), {"gpu": 0.5}, {"gpu": 0.25})


def problem() -> Problem:
    """Four blocks; a tensor from the first to the second and the last, a mask of two of them."""
    blocks = tuple(block(float(seconds), forward=1.0) for seconds in (1, 2, 3, 4))
    row = tensor(0, 1, 3, size=6.0, back=4.0)
    return replace(chain([0.0] * 4, 2), blocks=blocks, tensors=(row,), shared=(MASK,))


def test_work_counts_what_is_shared_at_its_first_user() -> None:
    assert work_before(problem(), "gpu", False).tolist() == [0.0, 1.0, 3.5, 6.5, 10.5]
    assert work_before(problem(), "gpu", True).tolist() == [0.0, 2.0, 5.75, 9.75, 14.75]


def test_a_cut_between_two_users_computes_once_more() -> None:
    assert duplicate_seconds(problem(), "gpu", False).tolist() == [0.0, 0.0, 0.5, 0.5, 0.0]
    assert duplicate_seconds(problem(), "gpu", True).tolist() == [0.0, 0.0, 0.75, 0.75, 0.0]


def test_a_tensor_crosses_every_cut_up_to_its_last_user() -> None:
    assert received_bytes(problem()).tolist() == [0.0, 6.0, 6.0, 6.0, 0.0]
    tensors = Tensors.of(problem())
    messages = tensors.across(tensors.messages)
    assert messages.tolist() == [0.0, 2.0, 2.0, 2.0, 0.0]


def test_crossing_seconds_are_those_of_the_boundarys_link() -> None:
    two_links = replace(problem(), stage_devices=(device(latency=0.5), device()))
    tensors = Tensors.of(two_links)
    assert tensors.crossing_seconds(two_links, 0).tolist() == [
        0.0,
        11.0,
        11.0,
        11.0,
        0.0,
    ]
    assert tensors.crossing_seconds(two_links, 1).tolist() == [
        0.0,
        10.0,
        10.0,
        10.0,
        0.0,
    ]


def test_sums_begin_at_zero() -> None:
    assert sums_before([1.0, 2.0]).tolist() == [0.0, 1.0, 3.0]
