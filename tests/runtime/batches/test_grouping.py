"""Listed samples make up microbatches with as little padding as can be."""

from collections.abc import Iterator
from itertools import pairwise, permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecut.plan.schema import Batch, LengthRange, MoreSamples, Plan, SecondsAt
from pipecut.runtime.batches.grouping import grouped, work_of
from tests.plans import made_plan, made_stage

LENGTHS = {"length": LengthRange(shortest=1, longest=16)}
MORE = MoreSamples(samples=4, lengths={"length": 8})


def plan_of(**fields: Any) -> Plan:
    """Takes microbatches of 2 samples of up to 16 tokens, of 4 of up to 8."""
    given = {"global_size": 8, "microbatch": 2, "dynamic": True, "lengths": LENGTHS}
    quarter = SecondsAt(share=0.25, forward_seconds=0.2, backward_seconds=0.5)
    seconds = {"forward_seconds": 1.0, "backward_seconds": 2.0, "shorter": [quarter]}
    stages = [made_stage(0, 1, **seconds)]
    return made_plan(1, stages=stages, batch=Batch.model_validate({**given, **fields}))


def lengths(*numbers: int) -> list[dict[str, int]]:
    return [{"length": number} for number in numbers]


BALANCED = plan_of(order="balanced", pad={"x": 0}, more_samples=MORE)


def test_neighbours_are_together_in_the_order_given() -> None:
    assert grouped(plan_of(), lengths(9, 1, 8, 2, 3)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("order", ["as-given", "balanced"])
def test_a_smaller_batch_is_spread_over_as_many_microbatches(order: str) -> None:
    groups = grouped(plan_of(order=order), lengths(9, 1, 8, 2, 3), wanted=4)
    assert sorted(map(len, groups)) == [1, 1, 1, 2]


def test_short_samples_are_more_than_two_where_memory_allows_that() -> None:
    groups = grouped(BALANCED, lengths(16, 2, 9, 2, 3, 8, 2, 7), wanted=4)
    assert groups == [[1, 3, 6, 4], [7, 5], [2], [0]]
    without = grouped(
        plan_of(order="balanced", pad={"x": 0}), lengths(16, 2, 9, 2, 3, 8, 2, 7), wanted=4
    )
    assert without == [[1, 3], [6, 4], [7, 5], [2, 0]]


def test_what_is_not_predicted_counts_by_its_lengths() -> None:
    batch = Batch(global_size=8, microbatch=2, dynamic=True, lengths=LENGTHS)
    plan = made_plan(1, batch=batch)
    assert work_of(plan, {"batch": 1, "length": 4}) * 4 == work_of(plan, {"batch": 1, "length": 16})


def test_a_fixed_batch_size_stays() -> None:
    fixed = plan_of(order="balanced", pad={"x": 0}, dynamic=False, more_samples=MORE)
    assert grouped(fixed, lengths(16, 2, 3, 15), wanted=2) == [[1, 2], [3, 0]]


def partitions(numbers: list[int], groups: int) -> Iterator[list[list[int]]]:
    """Of numbers in this order, into so many groups of one or more."""
    if groups == 1:
        yield [numbers]
        return
    for size in range(1, len(numbers) - groups + 2):
        for others in partitions(numbers[size:], groups - 1):
            yield [numbers[:size], *others]


def padded_work(plan: Plan, groups: list[list[int]]) -> int:
    """Of groups of lengths; 0 for one that is too large."""
    work = 0
    for group in groups:
        sizes = {"batch": len(group), "length": max(group)}
        if len(group) > plan.batch.most_samples(sizes):
            return 0
        work += work_of(plan, sizes)
    return work


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 16), min_size=4, max_size=6))
def test_no_other_microbatches_have_less_padding(sizes: list[int]) -> None:
    """Tried: every way to make three microbatches of the samples, in any order."""
    best = min(
        work
        for order in set(permutations(sizes))
        for groups in partitions(list(order), 3)
        if (work := padded_work(BALANCED, groups))
    )
    groups = grouped(BALANCED, lengths(*sizes), wanted=3)
    assert sorted(number for group in groups for number in group) == list(range(len(sizes)))
    assert padded_work(BALANCED, [[sizes[n] for n in group] for group in groups]) == best
    longest = [max(sizes[n] for n in group) for group in groups]
    assert all(first <= second for first, second in pairwise(longest))
