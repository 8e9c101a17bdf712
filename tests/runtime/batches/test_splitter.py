"""Replicas share a batch: each has some microbatches, and the parts of the loss sum to 1."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipecut.errors import RunError
from pipecut.plan.schema import Batch, Plan, Terms
from pipecut.runtime.batches.splitter import BatchSplitter
from pipecut.runtime.engine.engine import Work
from tests.chain import chain_worlds
from tests.plans import made_plan, made_stage, made_tensor


def works(plan: Plan, batch: dict[str, torch.Tensor], step: bool, **options: Any) -> list[Work]:
    """Each replica's share, of the rank that has the first stage."""
    splitters = [BatchSplitter(plan, world) for world in chain_worlds(plan)[: plan.replicas]]
    if step:
        return [splitter.for_step(batch, **options) for splitter in splitters]
    return [splitter.for_evaluation(batch, **options) for splitter in splitters]


@given(st.integers(1, 21), st.integers(1, 4), st.integers(1, 4))
def test_every_sample_is_of_one_replica_once(count: int, replicas: int, microbatch: int) -> None:
    batch = Batch(global_size=8, microbatch=microbatch, dynamic=True)
    plan = made_plan(1, replicas=replicas, batch=batch)
    x = torch.arange(4.0 * count).view(count, 4)
    shares = works(plan, {"x": x}, step=False)
    parts = [part["x"] for share in shares for part in share.microbatches]
    assert torch.equal(torch.cat(parts), x)
    assert sum(weight for share in shares for weight in share.weights) == pytest.approx(1.0)
    sizes = [len(share.samples) for share in shares]
    assert sizes[0] == max(sizes)
    for share in shares:
        assert [len(part["x"]) for part in share.microbatches] == share.samples


def test_a_step_takes_the_global_size_and_its_scale() -> None:
    plan = made_plan(1, replicas=2)
    shares = works(plan, {"x": torch.rand(8, 4)}, step=True, scale=4.0)
    assert [share.samples for share in shares] == [[2, 2], [2, 2]]
    assert [share.first for share in shares] == [0, 2]
    assert {share.scale for share in shares} == {4.0}


@pytest.mark.parametrize("count", [0, 3, 9])
def test_a_step_of_another_size_is_refused(count: int) -> None:
    with pytest.raises(
        RunError, match=f"a batch of {count} is .* the schedule has 4; give 8 samples, "
    ):
        works(made_plan(1), {"x": torch.rand(count, 4)}, step=True, scale=1.0)


def test_a_smaller_last_microbatch_needs_a_dynamic_batch() -> None:
    assert works(made_plan(1), {"x": torch.rand(7, 4)}, step=True, scale=1.0)[0].samples[-1] == 1
    fixed = made_plan(1, batch=Batch(global_size=8, microbatch=2, dynamic=False))
    with pytest.raises(RunError, match="fixes its batch size: 7 samples are no multiple of 2"):
        works(fixed, {"x": torch.rand(7, 4)}, step=True, scale=1.0)


def test_microbatches_weigh_by_their_counted_labels() -> None:
    labels = made_tensor("labels", shape=["batch", 2], dtype="int64", needs_grad=False)
    terms = Terms(input="labels", ignored=-100, skipped=0)
    batch = Batch(global_size=4, microbatch=2, dynamic=True, terms=terms)
    stages = [made_stage(0, 1, batch_inputs=["labels"])]
    plan = made_plan(1, inputs=[labels], stages=stages, batch=batch)
    counted = torch.tensor([[1, -100], [1, 1], [-100, -100], [1, -100]])
    (share,) = works(plan, {"labels": counted}, step=True, scale=1.0)
    assert share.weights == [0.75, 0.25]
    (share,) = works(plan, {"labels": counted}, step=False, by_samples=True)
    assert share.weights == [0.5, 0.5]
    with pytest.raises(RunError, match="rank 0: .*microbatch 1"):
        works(
            plan,
            {"labels": torch.tensor([[1, 1], [1, 1], [-100, -100], [-100, -100]])},
            True,
            scale=1.0,
        )


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_smaller_batch_is_spread_over_as_many_microbatches(replicas: int) -> None:
    """As the last of an epoch is: the schedule has so many, and none is empty."""
    plan = made_plan(1, replicas=replicas)
    x = torch.rand(5, 4)
    shares = works(plan, {"x": x}, step=True, scale=1.0)
    assert [n for share in shares for n in share.samples] == [2, 1, 1, 1]
    assert [w for share in shares for w in share.weights] == [0.4, 0.2, 0.2, 0.2]
    parts = [part["x"] for share in shares for part in share.microbatches]
    assert torch.equal(torch.cat(parts), x)


def test_a_batch_of_fewer_samples_than_microbatches_says_what_to_do() -> None:
    with pytest.raises(RunError, match="at least 4, or leave it out, as a DataLoader's drop_last"):
        works(made_plan(1), {"x": torch.rand(3, 4)}, step=True, scale=1.0)
    fixed = made_plan(1, batch=Batch(global_size=8, microbatch=2, dynamic=False))
    with pytest.raises(RunError, match="the schedule has 4; give 8 samples"):
        works(fixed, {"x": torch.rand(6, 4)}, step=True, scale=1.0)


@pytest.mark.parametrize("by_labels", [False, True])
def test_shards_are_what_replicas_take_of_the_global_batch(
    by_labels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = made_tensor("labels", shape=["batch", 2], dtype="int64", needs_grad=False)
    terms = Terms(input="labels", ignored=-100, skipped=0) if by_labels else None
    batch = Batch(global_size=8, microbatch=2, dynamic=True, terms=terms)
    stages = [made_stage(0, 1, batch_inputs=["labels"])]
    plan = made_plan(1, replicas=2, inputs=[labels], stages=stages, batch=batch)
    counted = torch.arange(16).view(8, 2)
    counted[3:6, 1] = -100
    whole = works(plan, {"labels": counted}, step=True, scale=1.0)
    totals: list[torch.Tensor] = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda t, group: totals.append(t.clone()))
    for share, part, world in zip(whole, counted.chunk(2), chain_worlds(plan), strict=True):
        world.replica_group = object()  # type: ignore[assignment]
        splitter = BatchSplitter(plan, world)
        splitter.sharded = True
        own = splitter.for_step({"labels": part}, 1.0)
        assert own.first == share.first and own.samples == share.samples
        # Weights among its own: the total of all replicas would come from the others.
        assert own.weights == pytest.approx([w / sum(share.weights) for w in share.weights])
    assert sum(map(int, totals)) == (13 if by_labels else 8)
    with pytest.raises(RunError, match="a replica's batch of 8 is 4 .* the schedule has 2; give 4"):
        splitter.for_step({"labels": counted}, 1.0)


def test_losses_that_are_sums_are_added_up() -> None:
    batch = Batch(global_size=8, microbatch=2, dynamic=True, summed=True)
    shares = works(made_plan(1, replicas=2, batch=batch), {"x": torch.rand(7, 4)}, True, scale=1.0)
    assert [share.weights for share in shares] == [[1.0, 1.0], [1.0, 1.0]]


def test_an_input_of_other_ranks_is_not_taken() -> None:
    plan = made_plan(2)
    world = chain_worlds(plan)[1]
    work = BatchSplitter(plan, world).for_step({"x": torch.rand(8, 4)}, 1.0)
    assert work.microbatches == [{}] * 4 and work.samples == [2] * 4
