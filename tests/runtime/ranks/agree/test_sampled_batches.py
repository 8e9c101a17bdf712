"""A batch that differs on some rank is found in the step itself, by a sample of it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from pipecut.errors import DisagreementError
from pipecut.runtime.health.status import Status
from pipecut.runtime.ranks.agree.meeting import Meeting
from pipecut.runtime.ranks.agree.same_batches import FIRST, SameBatches, Shard
from pipecut.runtime.ranks.agree.sampled_batches import ELEMENTS, SampledBatches, sample_of

CPU = torch.device("cpu")


class Reduction:
    """The maximum over threads that stand for ranks."""

    def __init__(self, ranks: int) -> None:
        self.barrier, self.given = threading.Barrier(ranks), list[torch.Tensor]()

    def __call__(self, tensor: torch.Tensor, op: Any) -> None:
        self.given.append(tensor.clone())
        self.barrier.wait()
        tensor.copy_(torch.stack(self.given).amax(0))
        if self.barrier.wait() == 0:
            self.given.clear()
        self.barrier.wait()


def after_first(batches: list[dict[str, Any]], shards: list[Shard] | None = None) -> list[str]:
    """What ranks are told of these batches, after some that were alike; "" where nothing."""
    store, reduce, ranks = HashStore(), Reduction(len(batches)), len(batches)

    def compare(rank: int) -> str:
        same = SameBatches(Meeting(rank, ranks, store), Status(rank), SampledBatches(CPU, reduce))
        try:
            for number in range(FIRST + 1):
                same.compare({"x": torch.full((2,), number)})
            same.shard = shards[rank] if shards else None
            same.compare(batches[rank])
        except DisagreementError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(compare, range(ranks)))


X = torch.arange(12.0).view(3, 4)


@pytest.mark.parametrize(
    "other",
    [
        {"x": X + 1},
        {"x": X.view(4, 3)},
        {"x": X.double()},
        {"y": X},
        {"x": [X]},
        {"x": [X[:1], X[1:2]]},
        {"x": [X[:1], X[1:3]]},
    ],
)
def test_batches_that_differ_are_refused_on_every_rank(other: dict[str, Any]) -> None:
    given = {"x": [X[:1], X[2:]]} if isinstance(other.get("x"), list) else {"x": X}
    assert after_first([given, dict(given)]) == ["", ""]
    first, second = after_first([given, other])
    assert first == second and "input 'x'" in first and "give every rank the same" in first


def test_replicas_may_differ_and_their_ranks_may_not() -> None:
    shards = [Shard(0, 2), Shard(1, 2), Shard(0, 2), Shard(1, 2)]
    parts = [{"x": X}, {"x": X + 1}, {"x": X}, {"x": X + 1}]
    assert after_first(parts, shards) == [""] * 4
    messages = after_first([*parts[:3], {"x": X}], shards)
    assert len(set(messages)) == 1 and "the same part" in messages[0]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(4, 6).t(),
        torch.tensor(3),
        torch.rand(3).bfloat16(),
        torch.tensor([True, False]),
        torch.rand(2, 2, dtype=torch.complex64).conj(),
        torch.empty(0, 3),
        torch.rand(5, requires_grad=True),
        torch.rand(4, 1).expand(4, 3),
    ],
)
def test_a_sample_is_of_any_tensor(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        again = tensor.clone(memory_format=torch.preserve_format)
        other = ~tensor if tensor.dtype == torch.bool else tensor + 1
    sample = sample_of("step", {"x": tensor}, 5)
    assert sample == sample_of("step", {"x": again}, 5) and 0 <= sample < 2**62
    assert (sample != sample_of("step", {"x": other}, 5)) == bool(tensor.numel())
    assert sample != sample_of("predict", {"x": tensor}, 5)


def test_each_element_of_a_large_tensor_is_looked_at_once_in_a_while() -> None:
    values = torch.zeros(3 * ELEMENTS, dtype=torch.int64)
    changed = values.clone()
    changed[7] = 1
    found = [
        sample_of("step", {"x": values}, n) != sample_of("step", {"x": changed}, n)
        for n in range(3)
    ]
    assert found.count(True) == 1


def test_constants_are_not_in_a_sample() -> None:
    assert sample_of("step", {"x": X, "flag": True}, 4) == sample_of("step", {"x": X}, 4)
