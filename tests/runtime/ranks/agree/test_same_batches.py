"""Batches that differ between ranks are found by a digest of every element and its position."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore

from pipecut.errors import DisagreementError, PeerLostError, RunError
from pipecut.runtime.health.status import Status
from pipecut.runtime.ranks.agree import same_batches as rules
from pipecut.runtime.ranks.agree.meeting import Meeting
from pipecut.runtime.ranks.agree.same_batches import (
    EVERY,
    FIRST,
    SameBatches,
    Shard,
    digest,
    seed_alike,
)
from pipecut.runtime.ranks.agree.sampled_batches import SampledBatches


def of_ranks(count: int) -> list[SameBatches]:
    store = HashStore()
    return [SameBatches(Meeting(rank, count, store), Status(rank)) for rank in range(count)]


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=20), st.data())
def test_a_digest_sees_each_element_and_its_position(
    values: list[int], data: st.DataObject
) -> None:
    tensor = torch.tensor(values)
    assert digest(tensor) == digest(tensor.clone())
    position = data.draw(st.integers(0, len(values) - 1))
    changed = tensor.clone()
    changed[position] += 1
    assert digest(changed) != digest(tensor)
    swapped = tensor.flip(0)
    assert (digest(swapped) == digest(tensor)) == torch.equal(swapped, tensor)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool, torch.complex64, torch.float64]
)
def test_a_digest_is_of_any_type_and_layout(dtype: torch.dtype) -> None:
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    name = str(dtype).removeprefix("torch.")
    assert digest(tensor).startswith(f"{name}[3, 4] ")
    assert digest(tensor.t().contiguous().t()) == digest(tensor)
    assert digest(tensor.reshape(4, 3)) != digest(tensor)


def test_parts_of_a_large_tensor_count(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.arange(100)
    in_one = digest(tensor)
    monkeypatch.setattr(rules, "PART", 7)
    assert digest(tensor) == in_one


def test_different_batches_are_refused_on_every_rank() -> None:
    def compare(batches: SameBatches) -> str:
        batch = {"x": torch.full((2,), batches.meeting.rank), "flag": True}
        with pytest.raises(DisagreementError) as raised:
            batches.compare(batch)
        return str(raised.value)

    with ThreadPoolExecutor(2) as pool:
        left, right = pool.map(compare, of_ranks(2))
    assert left == right and "the batch of step 1 differs" in left and "input 'x'" in left


def compared(shards: list[tuple[int, int]]) -> list[str | None]:
    """What ranks are told whose batches have these values: a replica, and a number, of each."""

    def compare(batches: SameBatches) -> str | None:
        replica, value = shards[batches.meeting.rank]
        batches.shard = Shard(replica, 2)
        try:
            batches.compare({"x": torch.full((2,), value)})
        except DisagreementError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(compare, of_ranks(4)))


def test_replicas_may_have_parts_of_their_own() -> None:
    assert compared([(0, 5), (1, 6), (0, 5), (1, 6)]) == [None] * 4


def test_ranks_of_a_replica_need_the_same_part() -> None:
    messages = compared([(0, 5), (1, 6), (0, 5), (1, 7)])
    assert len(set(messages)) == 1 and messages[0] is not None
    assert "on rank 1; " in messages[0] and "on rank 3" in messages[0]
    assert "rank 0" not in messages[0] and "the same part" in messages[0]


def test_parts_that_are_all_the_same_are_refused() -> None:
    messages = compared([(0, 5), (1, 5), (0, 5), (1, 5)])
    assert all(message and "the same on all 2 replicas" in message for message in messages)


def test_only_the_first_batches_and_a_few_later_are_compared_whole() -> None:
    samples = SampledBatches(torch.device("cpu"), lambda tensor, op: None)
    batches = SameBatches(Meeting(0, 2, HashStore()), Status(0), samples)
    compared: list[str] = []
    batches.meeting.agree = lambda subject, *_: compared.append(subject)  # type: ignore[method-assign]
    for _ in range(2 * EVERY):
        batches.compare({"x": torch.ones(1)}, "evaluate")
    assert len(compared) == FIRST + 2
    assert compared[0] == "batch 1 of evaluate" and compared[-1] == f"batch {2 * EVERY} of evaluate"


def test_data_that_ends_on_one_rank_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "PATIENCE", 0.01)
    first, second, third = of_ranks(3)
    first.check_ends()
    first.data_ended(5)
    second.data_ended(5)
    with pytest.raises(RunError, match="ended after 5 batches, that of rank 2 goes on"):
        first.check_ends()
    third.data_ended(6)
    with pytest.raises(RunError, match="ended after 6 batches, that of rank 0 ended after 5"):
        third.check_ends()


def test_data_that_ends_on_all_ranks_begins_anew() -> None:
    ranks = of_ranks(2)
    for _ in range(2):
        for batches in ranks:
            batches.data_ended(5)
        for batches in ranks:
            batches.check_ends()


def test_a_rank_lost_after_its_last_step_is_told_apart() -> None:
    first, second = of_ranks(2)
    with pytest.raises(PeerLostError), first.ended_early():
        raise PeerLostError("lost")
    second.meeting.leave(4)
    with pytest.raises(RunError, match="rank 1 ended after 4 steps"), first.ended_early():
        raise PeerLostError("lost")


def test_a_seed_makes_all_generators_draw_alike() -> None:
    with torch.random.fork_rng(devices=[]):
        state = random.getstate()
        seed_alike(3)
        drawn = torch.rand(2), random.random()
        seed_alike(3)
        assert torch.equal(torch.rand(2), drawn[0]) and random.random() == drawn[1]
        random.setstate(state)
