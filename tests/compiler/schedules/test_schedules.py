"""Schedules do everything once, without deadlock, with bubbles and memory as published."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecut.compiler.schedules.lower import lower
from pipecut.compiler.schedules.order import start_times
from pipecut.compiler.schedules.registry import SCHEDULES, in_flight, orders, pipeline_ranks_of
from pipecut.compiler.schedules.schedule import ComputeSeconds
from pipecut.plan.actions import Action, Compute, Direction, Hop, Op
from pipecut.plan.channels import Channel
from pipecut.plan.replay.deadlock import check_order, check_steps
from pipecut.plan.replay.simulate import Costs, Timeline, simulate
from pipecut.plan.replay.traffic import Traffic

DIRECTIONS: tuple[Direction, ...] = ("F", "B")


@dataclass(frozen=True)
class Case:
    """A schedule of a pipeline."""

    schedule: str
    ranks: int
    microbatches: int
    stages_per_rank: int = 1

    @property
    def stages(self) -> int:
        return self.ranks * self.stages_per_rank

    @property
    def pipeline_rank_of(self) -> tuple[int, ...]:
        return pipeline_ranks_of(self.schedule, self.stages, self.stages_per_rank)

    def orders(self) -> list[list[Compute]]:
        return orders(self.schedule, self.stages, self.microbatches, self.stages_per_rank)

    def in_flight(self) -> tuple[int, ...]:
        return in_flight(self.schedule, self.stages, self.microbatches, self.stages_per_rank)

    def lowered(self) -> list[list[Action]]:
        boundaries = range(self.stages - 1)
        return lower(self.orders(), self.pipeline_rank_of, boundaries, boundaries, reduce=False)

    def timeline(self, seconds: ComputeSeconds) -> Timeline:
        """With equal stages and messages that take nothing."""
        free = {Hop(direction, s): 0.0 for direction in DIRECTIONS for s in range(self.stages)}
        costs = Costs(
            [seconds.forward] * self.stages,
            [seconds.backward] * self.stages,
            free,
            [0.0] * self.ranks,
            weights=[seconds.weights] * self.stages,
        )
        return simulate(self.lowered(), costs)


@st.composite
def cases(draw: Any, names: tuple[str, ...] = tuple(SCHEDULES)) -> Case:
    name = draw(st.sampled_from(names))
    stages_per_rank = SCHEDULES[name].stages_per_rank or draw(st.integers(1, 4))
    return Case(name, draw(st.integers(1, 8)), draw(st.integers(1, 32)), stages_per_rank)


@given(cases())
def test_every_stage_computes_every_microbatch_once(case: Case) -> None:
    computes: list[Compute] = []
    for rank, order in enumerate(case.orders()):
        assert all(case.pipeline_rank_of[compute.stage] == rank for compute in order)
        computes += order
    split = SCHEDULES[case.schedule].splits_backward
    ops: tuple[Op, ...] = ("F", "I", "W") if split else ("F", "B")
    every = [
        Compute(op, stage, microbatch)
        for op in ops
        for stage in range(case.stages)
        for microbatch in range(case.microbatches)
    ]
    assert len(computes) == len(every) and set(computes) == set(every)
    assert len(start_times(case.orders(), case.stages)) == len(every)


@given(cases())
def test_no_schedule_deadlocks_and_channels_have_one_order(case: Case) -> None:
    ranks = case.pipeline_rank_of
    over = frozenset(left for left, pair in enumerate(pairwise(ranks)) if pair[0] != pair[1])
    traffic, rows = Traffic(dict(enumerate(ranks)), over, over), case.lowered()
    assert check_order(traffic, rows) == 2 * len(over) * case.microbatches
    pairs = [(ranks[left], ranks[left + 1]) for left in over]
    opened = {Channel(*ends) for pair in pairs for ends in (pair, reversed(pair))}
    check_steps(traffic, rows, opened)
    check_steps(traffic, rows, opened, occupied=True)


WITH_BOUND = tuple(name for name, schedule in SCHEDULES.items() if schedule.in_flight_of)


@given(cases(WITH_BOUND))
def test_stages_hold_as_many_microbatches_as_the_closed_form_says(case: Case) -> None:
    peaks = [0] * case.stages
    for order in case.orders():
        live = [0] * case.stages
        for compute in order:
            live[compute.stage] += 1 if compute.op == "F" else -1
            peaks[compute.stage] = max(peaks[compute.stage], live[compute.stage])
    assert tuple(peaks) == case.in_flight()


WITH_IDLE = tuple(name for name, schedule in SCHEDULES.items() if schedule.idle_seconds)


@given(cases(WITH_IDLE), st.integers(1, 4), st.integers(1, 5), st.integers(1, 9))
def test_ranks_wait_as_long_as_the_closed_form_says(
    case: Case, groups: int, forward: int, backward: int
) -> None:
    schedule = SCHEDULES[case.schedule]
    seconds = ComputeSeconds(forward, backward)
    if schedule.splits_backward:
        # The closed form holds where the three parts take equally long.
        seconds = ComputeSeconds(forward, 2 * forward, forward)
    case = Case(case.schedule, case.ranks, case.ranks * groups, case.stages_per_rank)
    assert schedule.idle_seconds is not None
    timeline = case.timeline(seconds)
    work = case.microbatches * case.stages_per_rank * (seconds.forward + seconds.backward)
    idle = schedule.idle_seconds(case.ranks, seconds)
    assert timeline.step_seconds == pytest.approx(work + idle)
    assert timeline.bubble == pytest.approx(idle / (work + idle))


@given(st.integers(1, 8), st.integers(0, 24))
def test_zero_bubble_holds_no_more_than_the_first_rank_of_1f1b(ranks: int, more: int) -> None:
    assert max(Case("zb-h1", ranks, ranks + more).in_flight()) <= ranks


@settings(max_examples=40)
@given(st.integers(1, 8), st.integers(0, 24))
def test_the_v_has_less_than_half_the_bubble_of_1f1b_and_no_more_activations(
    ranks: int, more: int
) -> None:
    case = Case("v-shaped", ranks, 2 * ranks + more, 2)
    # Half a rank's layers in each stage: a microbatch takes a rank 3 units, as under 1F1B.
    idle = case.timeline(ComputeSeconds(0.5, 1.0, 0.5)).step_seconds - 3 * case.microbatches
    assert idle <= 0.5 * 3 * (ranks - 1)
    for order in case.orders():
        live = peak = 0
        for compute in order:
            live += {"F": 1, "W": -1}.get(compute.op, 0)
            peak = max(peak, live)
        assert peak <= 2 * ranks
