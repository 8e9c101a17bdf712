"""Loads of segments, relayed and direct, are those of the placements that have them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from pipecut.compiler.partition.chain.segment_loads import DirectLoads, RelayedLoads
from pipecut.compiler.partition.chain.transfer_table import transfer_table
from pipecut.compiler.partition.chain.windows import feasible_starts
from pipecut.compiler.partition.load import loads
from pipecut.compiler.partition.problem import Problem
from tests.compiler.partition.problems import chain, problems, tensor

# Every stage has room for everything.
ROOMY = 2**50


def roomy(problem: Problem) -> Problem:
    """Without memory limits, and without what stages compute for themselves."""
    devices = tuple(replace(row, capacity=ROOMY) for row in problem.stage_devices)
    return replace(problem, stage_devices=devices, shared=())


def test_a_relayed_segment_pays_at_both_of_its_cuts() -> None:
    problem = chain([1.0, 2.0, 3.0], 3, [5.0, 7.0])
    windows = [(starts,) for starts in feasible_starts(problem)]
    segments = RelayedLoads(problem)
    assert segments.load(1, 1, 2, windows[1]) == 2.0 + 5.0 + 7.0
    assert segments.load(0, 0, 1, windows[0]) == 1.0 + 5.0
    assert segments.highest >= max(loads(problem, [0, 1, 2]))


def test_ends_in_reach_have_a_start_within_the_target() -> None:
    problem = chain([1.0, 2.0, 3.0], 1)
    windows = (feasible_starts(problem)[0],)
    reach = np.array([True, False, False, False])
    assert RelayedLoads(problem).extend(0, reach, windows, 3.0).tolist() == [
        False,
        True,
        True,
        False,
    ]
    assert RelayedLoads(problem).start_of(0, 2, reach, windows) == 0


@settings(max_examples=40, deadline=None)
@given(problem=problems())
def test_relayed_loads_are_those_of_the_placement(problem: Problem) -> None:
    assert_loads_of_halves(roomy(problem))


@settings(max_examples=40, deadline=None)
@given(problem=problems(comm="direct"))
def test_direct_loads_are_those_of_the_placement(problem: Problem) -> None:
    assert_loads_of_halves(roomy(problem))


def assert_loads_of_halves(problem: Problem) -> None:
    """Every cut of the order into two."""
    problem = replace(problem, stage_devices=problem.stage_devices[:2])
    count = len(problem.blocks)
    segments = DirectLoads(problem) if problem.comm == "direct" else RelayedLoads(problem)
    windows = [(starts,) for starts in feasible_starts(problem)]
    for cut in range(1, count):
        expected = loads(problem, [int(v >= cut) for v in range(count)])
        first = segments.load(0, 0, cut, windows[0])
        last = segments.load(1, cut, count, windows[1])
        assert [first, last] == pytest.approx(expected)


def test_a_segment_with_all_users_of_its_tensor_sends_nothing() -> None:
    problem = replace(chain([1.0] * 4, 2), tensors=(tensor(1, 0, 3, size=2.0),), comm="direct")
    table = transfer_table(problem, 0)
    # Alone with the source; with one of two users; with all; between them; one user alone.
    assert [table[1, 2], table[0, 2], table[0, 4], table[2, 3], table[3, 4]] == [2, 2, 0, 0, 2]
