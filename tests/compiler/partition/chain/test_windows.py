"""Feasible starts against brute force, and window maxima against slices."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecut.compiler.partition.chain.prefix_sums import received_bytes
from pipecut.compiler.partition.chain.windows import (
    FeasibleStarts,
    Ranges,
    feasible_starts,
)
from pipecut.compiler.partition.problem import Problem, SharedParameter
from tests.compiler.partition.problems import block, chain, device, problems


def test_a_window_grows_until_the_memory_is_full() -> None:
    blocks = tuple(block(1.0, saved=size) for size in (3, 4, 5))
    problem = replace(chain([1.0] * 3, 1), blocks=blocks, stage_devices=(device(9),))
    (starts,) = feasible_starts(problem)
    assert starts.earliest.tolist() == [0, 0, 0, 1]
    assert starts.starts(3).tolist() == [False, True, True, False]


def test_a_start_that_receives_little_is_an_exception() -> None:
    # Of the segments up to the end, the one from block 1 receives 9 bytes, that from block 2 none.
    blocks = tuple(block(1.0, saved=1) for _ in range(4))
    problem = replace(chain([1.0] * 4, 2, [0.0, 9.0, 0.0]), blocks=blocks)
    problem = replace(problem, stage_devices=(device(4), device(4)))
    first, last = feasible_starts(problem)
    assert first.starts(4).tolist() == [True, True, True, True, False]
    assert last.earliest[4] == 3 and last.starts(4).tolist() == [True, True, False, True, False]


def test_pins_and_splits_keep_blocks_out() -> None:
    problem = replace(chain([1.0] * 4, 2), pins=((1, 0),), splits=((2, 3),))
    first, last = feasible_starts(problem)
    assert first.earliest.tolist() == [0, 0, 0, 0, 3]
    assert last.earliest.tolist() == [0, 0, 2, 2, 3]


def test_equal_stages_share_their_starts() -> None:
    problem = replace(chain([1.0] * 4, 3), stage_devices=(device(),) * 3)
    first, second, third = feasible_starts(problem)
    assert second is third and first is not second


@settings(max_examples=40, deadline=None)
@given(problem=problems() | problems(recompute=True), recompute=st.booleans())
def test_only_segments_that_fit_are_feasible(problem: Problem, recompute: bool) -> None:
    count, received = len(problem.blocks), received_bytes(problem)
    for stage, starts in enumerate(feasible_starts(problem, recompute)):
        device = problem.stage_devices[stage]
        for end in range(1, count + 1):
            for start in np.flatnonzero(starts.starts(end)):
                used = _bytes(problem, stage, int(start), end, recompute)
                arriving = device.in_flight * received[start] if stage else 0.0
                assert used + arriving <= device.capacity


def _bytes(problem: Problem, stage: int, start: int, end: int, recompute: bool) -> float:
    saving = problem.stage_devices[stage].saved_microbatches(recompute)
    inside = problem.blocks[start:end]
    shared: list[SharedParameter] = [
        row for row in problem.shared if any(start <= user < end for user in row.users)
    ]
    saved = saving * sum(row.saved_bytes for row in inside)
    held = sum(row.bytes_with(saving) for row in shared)
    return saved + held + max(row.transient_bytes for row in inside)


def test_the_maximum_is_over_windows_and_exceptions() -> None:
    earliest = np.array([0, 0, 1, 2])
    extra = np.array([[False, False, True, False]])
    starts = FeasibleStarts(earliest, extra)
    assert starts.maximum(np.array([9.0, 1.0, 2.0, 0.0])).tolist() == [-np.inf, 9.0, 9.0, 2.0]
    assert starts.all_starts[:, 2].tolist() == [True, True, False, False]


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(-10, 10), min_size=1, max_size=20), data=st.data())
def test_a_window_maximum_is_that_of_the_slice(values: list[float], data: st.DataObject) -> None:
    earliest = [data.draw(st.integers(0, end)) for end in range(len(values))]
    result = Ranges(np.array(earliest), np.arange(len(values))).maximum(np.array(values))
    slices = (values[first:end] for end, first in enumerate(earliest))
    assert result.tolist() == [max(part, default=-np.inf) for part in slices]
