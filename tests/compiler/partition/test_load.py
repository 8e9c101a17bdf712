"""Seconds and bytes of placements, counted by hand."""

from dataclasses import replace

import pytest

from pipecut.compiler.partition.load import bottleneck, loads, moved_bytes, transfer_seconds
from pipecut.compiler.partition.problem import Problem, SharedParameter
from tests.compiler.partition.problems import block, chain, device, tensor


def test_a_transfer_takes_its_bytes_and_a_latency_per_message() -> None:
    problem = chain([1.0, 1.0], 2)
    problem = replace(problem, stage_devices=(device(latency=0.5),) * 2)
    sent = tensor(0, 1, size=3.0, back=3.0)
    assert transfer_seconds(problem, sent, 0) == 3.0 + 3.0 + 2 * 0.5


def test_both_sides_of_a_boundary_pay() -> None:
    problem = chain([4.0, 5.0], 2, [2.0])
    assert loads(problem, [0, 1]) == [6.0, 7.0]
    assert bottleneck(problem, [0, 1]) == 7.0 and moved_bytes(problem, [0, 1]) == 2.0
    assert loads(problem, [0, 0]) == [9.0, 0.0]


def skip(comm: str) -> Problem:
    """Three blocks; the first's tensor is used by the last alone."""
    problem = chain([1.0, 1.0, 1.0], 3)
    return replace(problem, tensors=(tensor(0, 2, size=2.0),), comm=comm)


def test_a_relayed_tensor_passes_through_the_stages_between() -> None:
    assert loads(skip("relay"), [0, 1, 2]) == [3.0, 5.0, 3.0]
    assert moved_bytes(skip("relay"), [0, 1, 2]) == 4.0


def test_a_direct_tensor_goes_to_its_users_alone() -> None:
    assert loads(skip("direct"), [0, 1, 2]) == [3.0, 1.0, 3.0]
    assert moved_bytes(skip("direct"), [0, 1, 2]) == 2.0


def test_nothing_moves_between_stages_of_a_device() -> None:
    problem = replace(skip("direct"), devices=(0, 1, 0))
    assert loads(problem, [0, 1, 2]) == [1.0, 1.0, 1.0]
    assert bottleneck(problem, [0, 1, 2]) == 2.0 and moved_bytes(problem, [0, 1, 2]) == 0.0


def test_each_stage_computes_what_its_blocks_share() -> None:
    mask = SharedParameter("mask", 0, (0, 1, 2), {"gpu": 0.25})
    problem = replace(chain([1.0, 1.0, 1.0], 2), shared=(mask,))
    assert loads(problem, [0, 0, 1]) == [2.25, 1.25]


def test_a_stage_that_recomputes_runs_forward_again() -> None:
    blocks = tuple(block(3.0, forward=1.0) for _ in range(2))
    problem = replace(chain([3.0, 3.0], 2), blocks=blocks, recompute="always")
    assert loads(problem, [0, 1]) == pytest.approx([4.0, 4.0])
