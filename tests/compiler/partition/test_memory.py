"""Bytes of placements, counted by hand; who recomputes; what fits."""

from dataclasses import replace

import pytest

from pipecut.compiler.partition.memory import (
    device_bytes,
    evenly_shared,
    fits,
    fullest,
    peak_bytes,
    recomputing,
    stage_bytes,
    stages_with_copy,
    sum_by_device,
)
from pipecut.compiler.partition.problem import Problem, SharedParameter
from tests.compiler.partition.problems import block, chain, device, tensor


def saving(capacity: int = 100, recompute: str = "auto") -> Problem:
    """Two blocks that save 10 and 20 bytes, two and one of them in flight."""
    blocks = block(1.0, saved=10, transient=5), block(1.0, saved=20, transient=3)
    problem = chain([1.0, 1.0], 2, [7.0], capacity)
    shared = (SharedParameter("weight", 4, (0,)), SharedParameter("tied", 2, (0, 1)))
    return replace(problem, blocks=blocks, shared=shared, recompute=recompute)


def test_a_stage_holds_parameters_saved_and_received_bytes() -> None:
    first, last = stage_bytes(saving(), [0, 1])
    assert (first.fixed, first.saved, first.received, first.transient) == (6, 10, 0, 5)
    assert (last.fixed, last.saved, last.received, last.transient) == (2, 20, 7, 3)
    assert peak_bytes(saving(), [0, 1]) == [6 + 2 * 10 + 5, 2 + 20 + 7 + 3]


def test_only_a_device_that_is_too_small_recomputes() -> None:
    assert recomputing(saving(capacity=32), [0, 1]) == [False, False]
    assert recomputing(saving(capacity=31), [0, 1]) == [False, True]
    assert recomputing(saving(capacity=30), [0, 1]) == [True, True]
    assert recomputing(saving(recompute="always"), [0, 1]) == [True, True]
    assert recomputing(saving(capacity=1, recompute="never"), [0, 1]) == [False, False]


def test_recomputing_lets_more_fit() -> None:
    # The last stage holds 32 bytes either way: one microbatch in flight.
    assert fits(saving(capacity=32), [0, 1]) and not fits(saving(capacity=31), [0, 1])
    assert fits(saving(capacity=58), [0, 0]) is True
    assert fits(saving(capacity=58, recompute="never"), [0, 0]) is False


def test_relayed_tensors_are_held_on_the_stages_between() -> None:
    problem = replace(chain([1.0] * 3, 3), tensors=(tensor(0, 2, size=6.0),))
    assert [row.received for row in stage_bytes(problem, [0, 1, 2])] == [0, 6, 6]
    direct = replace(problem, comm="direct")
    assert [row.received for row in stage_bytes(direct, [0, 1, 2])] == [0, 0, 6]


def test_a_copy_of_a_tensor_is_on_each_device_that_uses_it() -> None:
    assert stages_with_copy((0, 1, 2), 0, [2, 2]) == [0, 2]
    assert stages_with_copy((0, 1, 0, 1), 2, [3]) == [0, 1]
    assert stages_with_copy((0, 1, 0, 1), 0, [2]) == []


def test_stages_of_a_device_share_its_memory_and_its_largest_transient() -> None:
    problem = replace(saving(), devices=(0, 0), comm="direct")
    assert device_bytes(problem, [0, 1], recompute=False) == {0: 26 + 22 + 5}
    assert sum_by_device(problem, [1.5, 2.0]) == {0: 3.5}


def test_an_even_share_of_a_device_is_its_memory_by_its_stages() -> None:
    problem = replace(chain([1.0] * 4, 4, capacity=101), devices=(0, 1, 1, 1))
    shared = evenly_shared(problem)
    assert [row.capacity for row in shared.stage_devices] == [101, 33, 33, 33]
    assert shared.devices == ()


def test_pins_and_splits_are_obeyed() -> None:
    problem = chain([1.0] * 3, 2)
    assert fits(replace(problem, pins=((1, 1),)), [0, 1, 1])
    assert not fits(replace(problem, pins=((1, 0),)), [0, 1, 1])
    assert fits(replace(problem, splits=((0, 1),)), [0, 1, 1])
    assert not fits(replace(problem, splits=((1, 2),)), [0, 1, 1])


def test_the_fullest_device_is_by_its_own_capacity() -> None:
    problem = saving()
    problem = replace(problem, stage_devices=(device(310, 2), device(64, 1)))
    assert fullest(problem, [0, 1]) == pytest.approx(0.5)
