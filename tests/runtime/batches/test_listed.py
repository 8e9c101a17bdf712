"""Listed samples become microbatches of their own lengths, in the order that the plan says."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipecut.errors import RunError
from pipecut.plan.schema import Batch, LengthRange, MoreSamples, Plan, Rising
from pipecut.runtime.batches.microbatches import count_samples, divided
from pipecut.runtime.batches.order import balanced
from tests.plans import made_plan, made_tensor


def plan_of(**fields: Any) -> Plan:
    """Takes tokens with labels, up to 9 a sample, in microbatches of 2."""
    inputs = [
        made_tensor(name, shape=["batch", "length"], dtype="int64", needs_grad=False)
        for name in ("ids", "labels")
    ]
    lengths = {"length": LengthRange(shortest=2, longest=9)}
    batch = Batch(global_size=8, microbatch=2, dynamic=True, lengths=lengths, **fields)
    return made_plan(1, inputs=inputs, batch=batch)


def samples(*lengths: int) -> dict[str, list[torch.Tensor]]:
    ids = [torch.arange(length) + 1 for length in lengths]
    return {"ids": ids, "labels": [each.clone() for each in ids]}


PAD = {"ids": 0, "labels": -100}


def test_samples_are_padded_to_the_longest_of_their_microbatch() -> None:
    first, second, last = divided(plan_of(pad=PAD), samples(3, 5, 9, 2, 4))
    assert [part.sizes["length"] for part in (first, second, last)] == [5, 9, 4]
    assert first.tensors["ids"].tolist() == [[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]
    assert first.tensors["labels"].tolist() == [[1, 2, 3, -100, -100], [1, 2, 3, 4, 5]]
    assert last.sizes["batch"] == 1


def test_samples_of_similar_length_are_grouped_where_that_is_allowed() -> None:
    parts = divided(plan_of(pad=PAD, order="balanced"), samples(9, 2, 8, 3, 5, 4))
    assert [part.sizes["length"] for part in parts] == [3, 9, 5]


def test_listed_samples_are_counted_and_so_are_those_of_listed_microbatches() -> None:
    assert count_samples(plan_of(), samples(3, 4, 5)) == 3
    assert count_samples(plan_of(), {n: [torch.ones(2, 3), torch.ones(1, 4)] for n in PAD}) == 3


def test_samples_of_one_length_need_no_pad() -> None:
    (part,) = divided(plan_of(), samples(3, 3))
    assert part.tensors["ids"].shape == (2, 3)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (samples(3, 4), r"differ in length.*pad: {ids: VALUE} in the job"),
        ({**samples(3, 4), "labels": samples(3, 5)["ids"]}, "differ in length"),
        ({"ids": [torch.ones(1, 3)], "labels": [torch.ones(3)]}, "lists samples of labels and"),
        ({n: [torch.ones(3), torch.ones(1, 3)] for n in PAD}, "samples and microbatches; give"),
        (samples(12, 12), "a length of 12 is more than the 9"),
    ],
)
def test_samples_that_make_no_microbatch_are_refused(batch: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        divided(plan_of(), batch)


def test_work_rises_and_falls_within_a_replica() -> None:
    works = [7, 1, 5, 3, 2, 6, 4]
    assert balanced(works, works, 1, Rising()) == [1, 3, 5, 7, 6, 4, 2]
    assert balanced(works, works, 1, Rising(every=3)) == [1, 4, 7, 6, 5, 3, 2]
    assert balanced(works, works, 1, Rising(first=-2, every=1)) == [6, 7, 5, 4, 3, 2, 1]
    assert balanced(works, works, 1, Rising(first=-1, every=1)) == [7, 6, 5, 4, 3, 2, 1]


@given(st.lists(st.integers(1, 99), max_size=24), st.integers(1, 4))
def test_every_microbatch_runs_once_and_replicas_have_as_many(
    works: list[int], replicas: int
) -> None:
    ordered = balanced(works, works, replicas, Rising())
    assert sorted(ordered) == sorted(works)


def test_short_microbatches_may_have_more_samples_where_the_plan_has_memory_for_them() -> None:
    more = MoreSamples(samples=4, lengths={"length": 4})
    plan = plan_of(more_samples=more)
    for count, length, message in ((4, 4, ""), (5, 4, "up to 4"), (3, 5, "up to 2")):
        batch = {name: [torch.ones(count, length, dtype=torch.int64)] for name in PAD}
        if not message:
            assert [part.sizes["batch"] for part in divided(plan, batch)] == [count]
            continue
        with pytest.raises(RunError, match=f"it has {count} samples; the plan's have {message}"):
            divided(plan, batch)


def test_a_smaller_batch_of_samples_is_spread_over_as_many_microbatches() -> None:
    parts = divided(plan_of(pad=PAD), samples(3, 5, 9, 2, 4), wanted=4)
    assert [part.sizes for part in parts] == [
        {"batch": 2, "length": 5},
        {"batch": 1, "length": 9},
        {"batch": 1, "length": 2},
        {"batch": 1, "length": 4},
    ]
