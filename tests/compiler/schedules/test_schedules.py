"""Schedules keep what they promise: everything once, no deadlock, bubbles and memory as published."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecut.compiler.schedules.lower import lower
from pipecut.compiler.schedules.order import start_times
from pipecut.compiler.schedules.registry import SCHEDULES, in_flight, orders, pipeline_ranks_of
from pipecut.plan.actions import Compute, Direction, Hop, Op
from pipecut.plan.replay.deadlock import Traffic, check_order, check_steps
from pipecut.plan.replay.simulate import Costs, Timeline, simulate

Case = tuple[str, int, int, int]
DIRECTIONS: tuple[Direction, ...] = ("F", "B")


@st.composite
def cases(draw: Any, names: tuple[str, ...] = tuple(SCHEDULES)) -> Case:
    """Schedule, ranks, microbatches, chunks."""
    name = draw(st.sampled_from(names))
    stages_per_rank = SCHEDULES[name].stages_per_rank or draw(st.integers(1, 4))
    return name, draw(st.integers(1, 8)), draw(st.integers(1, 32)), stages_per_rank


def lowered(case: Case, reduce: bool = False) -> list[list[Any]]:
    name, ranks, m, stages_per_rank = case
    stages = ranks * stages_per_rank
    boundaries = range(stages - 1)
    return lower(
        orders(name, stages, m, stages_per_rank),
        pipeline_ranks_of(name, stages, stages_per_rank),
        boundaries,
        boundaries,
        reduce,
    )


def timeline(case: Case, forward: float, backward: float, weights: float = 0.0) -> Timeline:
    """With equal stages and messages that take nothing."""
    _, ranks, _, stages_per_rank = case
    stages = ranks * stages_per_rank
    free = {Hop(direction, s): 0.0 for direction in DIRECTIONS for s in range(stages)}
    costs = Costs(
        [forward] * stages, [backward] * stages, free, [0.0] * ranks, weights=[weights] * stages
    )
    return simulate(lowered(case), costs)


@given(cases())
def test_every_stage_computes_every_microbatch_once(case: Case) -> None:
    name, ranks, m, stages_per_rank = case
    stages = ranks * stages_per_rank
    pipeline_rank_of = pipeline_ranks_of(name, stages, stages_per_rank)
    found: list[Compute] = []
    for rank, order in enumerate(orders(name, stages, m, stages_per_rank)):
        assert all(pipeline_rank_of[compute.stage] == rank for compute in order)
        found += order
    split: tuple[Op, ...] = ("F", "I", "W")
    ops: tuple[Op, ...] = split if any(compute.op == "W" for compute in found) else ("F", "B")
    every = [Compute(op, stage, k) for op in ops for stage in range(stages) for k in range(m)]
    assert len(found) == len(every) and set(found) == set(every)
    assert len(start_times(orders(name, stages, m, stages_per_rank), stages)) == len(found)


@given(cases())
def test_no_schedule_deadlocks_and_channels_have_one_order(case: Case) -> None:
    name, ranks, m, stages_per_rank = case
    pipeline_rank_of = pipeline_ranks_of(name, ranks * stages_per_rank, stages_per_rank)
    over = frozenset(
        left for left, pair in enumerate(pairwise(pipeline_rank_of)) if pair[0] != pair[1]
    )
    traffic = Traffic(dict(enumerate(pipeline_rank_of)), over, over)
    rows = lowered(case)
    assert check_order(traffic, rows) == 2 * len(over) * m
    pairs = [(pipeline_rank_of[left], pipeline_rank_of[left + 1]) for left in over]
    opened = {*pairs, *((right, left) for left, right in pairs)}
    check_steps(traffic, rows, opened)
    check_steps(traffic, rows, opened, occupied=True)


@given(cases(("gpipe", "1f1b")))
def test_no_stage_holds_more_than_is_promised_at_once(case: Case) -> None:
    name, ranks, m, stages_per_rank = case
    for stage, order in enumerate(orders(name, ranks, m, stages_per_rank)):
        live = peak = 0
        for compute in order:
            live += 1 if compute.op == "F" else -1
            peak = max(peak, live)
        assert peak == in_flight(name, ranks, m, stages_per_rank)[stage]


@given(cases(("gpipe", "1f1b")), st.integers(1, 5), st.integers(1, 9))
def test_gpipe_and_1f1b_take_the_published_step_and_bubble(
    case: Case, forward: int, backward: int
) -> None:
    _, ranks, m, _ = case
    found = timeline(case, forward, backward)
    # Narayanan et al., 2021, section 2.2.1: (p - 1) / (m + p - 1) of the step is bubble, for GPipe and 1F1B alike.
    assert found.step_seconds == pytest.approx((m + ranks - 1) * (forward + backward))
    assert found.bubble == pytest.approx((ranks - 1) / (m + ranks - 1))


@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 4))
def test_interleaving_divides_the_bubble_by_the_chunks(
    ranks: int, groups: int, stages_per_rank: int
) -> None:
    m = ranks * groups
    found = timeline(("interleaved", ranks, m, stages_per_rank), 1.0, 2.0)
    # Narayanan et al., 2021, section 2.2.2: (p - 1) (f + b) / v idle; here f and b are a chunk's.
    assert found.step_seconds == pytest.approx(3 * m * stages_per_rank + 3 * (ranks - 1))


@given(st.integers(1, 8), st.integers(0, 24))
def test_zero_bubble_leaves_a_third_and_holds_what_the_first_rank_of_1f1b_does(
    ranks: int, more: int
) -> None:
    m = ranks + more
    found = timeline(("zb-h1", ranks, m, 1), 1.0, 2.0, 1.0)
    # Qi et al., 2024, table 2: (p - 1) (f + b - w) where 1F1B has (p - 1) (f + b + w), b being I's alone.
    assert found.step_seconds == pytest.approx(3 * m + (ranks - 1))
    assert max(in_flight("zb-h1", ranks, m, 1)) <= ranks


@settings(max_examples=40)
@given(st.integers(1, 8), st.integers(0, 24))
def test_the_v_has_less_than_half_the_bubble_of_1f1b_and_no_more_activations(
    ranks: int, more: int
) -> None:
    m = 2 * ranks + more
    found = timeline(("v-shaped", ranks, m, 2), 0.5, 1.0, 0.5)
    assert found.step_seconds - 3 * m <= 0.5 * 3 * (ranks - 1)
    for order in orders("v-shaped", 2 * ranks, m, 2):
        live = peak = 0
        for compute in order:
            live += {"F": 1, "W": -1}.get(compute.op, 0)
            peak = max(peak, live)
        # Each is of half a rank's layers.
        assert peak <= 2 * ranks
