"""Microbatches run in an order whose predicted step is near to the best that a search finds."""

import random
from dataclasses import replace
from typing import Any

import pytest

from pipecut.compiler.predict.order import TRIED, with_order
from pipecut.compiler.schedules.registry import SCHEDULES, pipeline_ranks_of
from pipecut.plan.replay.lengths import costs_for
from pipecut.plan.replay.simulate import costs_of, simulate
from pipecut.plan.schema import Batch, LengthRange, Plan, Rising, SecondsAt
from pipecut.runtime.batches.order import rising_and_falling
from tests.compiler.schedules.test_lower import lowered
from tests.plans import made_plan, made_stage

MICROBATCHES, LONGEST = 12, 64
# Swaps and moves that a search over all orders tries, from the best of those that are tried.
TRIES = 200
# Seconds of a stage at a quarter of the longest, in proportion.
QUARTER = SecondsAt(share=0.25, forward_seconds=0.25, backward_seconds=0.5)


def plan_of(schedule: str, ranks: int, **batch: Any) -> Plan:
    """Every stage takes 1 s and 2 s of the longest microbatch, of which half are weights."""
    stages_per_rank = SCHEDULES[schedule].stages_per_rank or 2
    stages = ranks * stages_per_rank
    ranks_of = pipeline_ranks_of(schedule, stages, stages_per_rank)
    fields: dict[str, Any] = {"shorter": [QUARTER], "weight_seconds": 1.0}
    made = [made_stage(n, stages, pipeline_rank=ranks_of[n], **fields) for n in range(stages)]
    given = {"global_size": MICROBATCHES, "microbatch": 1, "dynamic": True, "order": "balanced"}
    lengths = {"length": LengthRange(shortest=4, longest=LONGEST)}
    sizes = Batch.model_validate({**given, "lengths": lengths, **batch})
    return made_plan(stages, stages=made, batch=sizes, schedule=schedule)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_search_over_all_orders_finds_little_better(schedule: str, ranks: int) -> None:
    actions = lowered(schedule, ranks, MICROBATCHES)
    plan = with_order(plan_of(schedule, ranks), actions)
    whole, chance = costs_of(plan), random.Random(0)
    lengths = sorted(round(LONGEST * chance.uniform(0.25, 1.0) ** 2) for _ in range(MICROBATCHES))
    own = [costs_for(plan, whole, {"batch": 1, "length": length}) for length in lengths]

    def seconds(order: list[int]) -> float:
        costs = replace(whole, by_microbatch=[own[number] for number in order])
        return simulate(actions, costs).step_seconds

    numbers = range(MICROBATCHES)
    chosen = seconds(rising_and_falling(numbers, plan.batch.rising))
    best = min((rising_and_falling(numbers, each) for each in TRIED), key=seconds)
    for _ in range(TRIES):
        here, there = chance.sample(numbers, 2)
        other = list(best)
        if chance.random() < 0.5:
            other[here], other[there] = other[there], other[here]
        else:
            other.insert(there, other.pop(here))
        best = min(best, other, key=seconds)
    assert chosen <= 1.05 * seconds(best), (plan.batch.rising, best)


def test_orders_are_the_usual_one_where_they_are_given_or_nothing_differs() -> None:
    actions = lowered("v-shaped", 2, MICROBATCHES)
    assert with_order(plan_of("v-shaped", 2), actions).batch.rising == Rising(first=-2, every=1)
    for plan in (plan_of("v-shaped", 2, order="as-given"), plan_of("v-shaped", 2, lengths={})):
        assert with_order(plan, actions).batch.rising == Rising()
    few = plan_of("v-shaped", 2, global_size=2)
    assert with_order(few, lowered("v-shaped", 2, 2)).batch.rising == Rising()
