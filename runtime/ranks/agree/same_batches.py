"""Every rank must get the same global batch: compared in the first steps, and then once in a while.

A rank takes the part of the batch that its stages need. With different batches, ranks would train
on inputs and labels that do not belong together, without any error.
"""

import hashlib
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from pipecut.errors import DisagreementError, PeerLostError, RunError
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.health.status import State, Status
from pipecut.runtime.health.timeouts import start_timeout, transfer_timeout
from pipecut.runtime.ranks.agree.meeting import Meeting, ended_early
from pipecut.runtime.ranks.agree.sampled_batches import (
    Replicas,
    SampledBatches,
    differ,
    sample_of,
)

# The first batches are compared whole, then every so many; between them samples are.
FIRST, EVERY = 3, 100
# Elements that are summed at once, so that this takes little memory.
PART = 1 << 20
# An element's weight is its position mixed as splitmix64 does: sums weighted by the position itself
# are equal after many swaps. GOLDEN is splitmix64's odd constant as a signed integer.
GOLDEN, MIX = -0x61C8864680B583EB, 0x6A09E667F3BCC909
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Seconds within which another rank, after the same step, records that its data ended.
PATIENCE = 10.0
# What of a batch is compared: tensors, and lists of one for each microbatch.
COMPARED = (torch.Tensor, list, tuple)
REMEDIES = {
    "batch": "give every rank the same batches in the same order: the whole global batch, or after "
    "pipe.read_shards() that of its replica; pipecut.load seeds all ranks alike",
    "data": "give every rank the same data",
}


REMEDIES_OF_SHARDS = {
    "batch": "give all ranks of a replica the same part: what `rank` and `count` say, and no more "
    "than that; pipecut.load seeds all ranks alike",
}


@dataclass(frozen=True)
class Shard:
    """A replica's part of every global batch: the one numbered `rank` of `count`."""

    rank: int
    count: int


@dataclass(frozen=True)
class _Given:
    """A batch, what it is for, and what messages call it."""

    batch: Mapping[str, Any]
    call: str
    subject: str

    @property
    def lists(self) -> bool:
        """Whether its microbatches have sizes of their own."""
        return any(isinstance(value, list | tuple) for value in self.batch.values())


@dataclass(frozen=True)
class _Shared:
    """A batch, and the samples that ranks have of theirs."""

    given: _Given
    samples: torch.Tensor


def seed_alike(seed: int) -> None:
    """Seed torch, Python and an imported NumPy: a DataLoader then shuffles alike on all ranks."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


class SameBatches:
    """Compares this rank's batches, one after the other, with those of the other ranks."""

    def __init__(
        self,
        meeting: Meeting,
        status: Status,
        samples: SampledBatches | None = None,
    ) -> None:
        self.meeting, self.status = meeting, status
        self.samples = samples or SampledBatches(torch.device("cpu"))
        # A sample that was shared, and what it is of; its answer is on the device.
        self.unread: _Shared | None = None
        self.calls: Counter[str] = Counter()
        # Times that this rank's data ended; the key of the last one, until all ranks are compared.
        self.epochs = 0
        self.end_key: str | None = None
        self.ended = 0
        # Where each replica reads its own part of a batch, which one this is, and of how many.
        self.shard: Shard | None = None

    def compare(self, batch: Mapping[str, Any], call: str = "step") -> None:
        """Raises DisagreementError on all ranks where batches differ, RunError where one lacks.

        `call` is what the batch is for; the first batches of every kind of call are compared, of
        others samples. On an accelerator a sample of tensors is read as the next batch comes.
        """
        self.calls[call] += 1
        number = self.calls[call]
        if self.meeting.size == 1:
            return
        of_step = f"the batch of step {self.status.step}"
        given = _Given(batch, call, of_step if call == "step" else f"batch {number} of {call}")
        # The batch is the user's: a mode that counts a step's allocations must not see it here.
        with self.status.during(State.COMPARING), _disable_current_modes():
            if self.unread is not None:
                unread, self.unread = self.unread, None
                self._read(unread)
            if number <= FIRST or number % EVERY == 0:
                self._compare_whole(given)
                return
            with self.ended_early(), naming_errors(f"rank {self.meeting.rank}, comparing batches"):
                shared = _Shared(given, self._shared_sample(given, number))
            # Messages have the sizes of what is listed, so ranks must know before they are sent.
            if given.lists or self.samples.of_host:
                self._read(shared)
            else:
                self.unread = shared

    def _shared_sample(self, given: _Given, number: int) -> torch.Tensor:
        shard = self._shard_of(given) or Shard(0, 1)
        sample = sample_of(given.call, given.batch, number)
        return self.samples.shared(sample, Replicas(shard.rank, shard.count))

    def _shard_of(self, given: _Given) -> Shard | None:
        return self.shard if given.call == "step" else None

    def _read(self, shared: _Shared) -> None:
        if differ(shared.samples):
            self._compare_whole(shared.given)

    def _compare_whole(self, given: _Given) -> None:
        subject, shard = given.subject, self._shard_of(given)
        # The plan itself is compared with what is no tensor.
        tensors = {n: t for n, t in sorted(given.batch.items()) if isinstance(t, COMPARED)}
        digests = {f"input '{name}'": _digest_of(tensor) for name, tensor in tensors.items()}
        limit = transfer_timeout().total_seconds()
        compared = {"batch": {"called": given.call, **self._end_before(given), **digests}}
        if shard is None:
            self.meeting.agree(subject, compared, REMEDIES, limit)
            return
        group = f"replica {shard.rank}"
        different = self.meeting.agree(subject, compared, REMEDIES_OF_SHARDS, limit, group)
        if different == 1 and shard.count > 1:
            raise DisagreementError(
                f"{subject} is the same on all {shard.count} replicas, which read parts of "
                "their own: give rank `rank` of `count` other samples than the others, as a "
                "DistributedSampler does, or give every rank the global batch"
            )

    def _end_before(self, given: _Given) -> dict[str, str]:
        """Whether this rank's data ended before a step: its batch is then the first one again."""
        if given.call != "step":
            return {}
        return {
            "its data": "goes on" if self.end_key is None else f"ended after {self.ended} batches"
        }

    def same_length(self, data: Any) -> None:
        """Compare the number of batches, where the data has one. Raises DisagreementError."""
        try:
            length = str(len(data))
        except (TypeError, NotImplementedError):
            length = "unknown"
        with self.status.during(State.COMPARING):
            compared = {"data": {"batches": length}}
            self.meeting.agree("the length of the data", compared, REMEDIES, start_timeout())

    @contextmanager
    def ended_early(self) -> Iterator[None]:
        """Raises RunError where a rank was lost because it had made all its steps."""
        try:
            yield
        except PeerLostError as error:
            ended = self.meeting.left()
            if ended is None:
                raise
            raise RunError(ended_early(self.meeting.rank, ended)) from error

    def data_ended(self, batches: int) -> None:
        """Record that this rank's data ended after so many batches in all, and begins anew."""
        if self.meeting.size > 1:
            self.epochs += 1
            self.end_key = f"ends/{self.epochs}"
            self.ended = batches
            self.meeting.post(self.end_key, str(batches))

    def check_ends(self) -> None:
        """After a step before which this rank's data ended, check that the data of all ranks did.

        No rank can have made the step without a batch. Raises RunError.
        """
        if self.end_key is None:
            return
        counts = self.meeting.everyone(self.end_key, PATIENCE)
        self.end_key = None
        count = counts[self.meeting.rank]
        for rank, theirs in enumerate(counts):
            if theirs != count:
                end = "goes on" if theirs is None else f"ended after {theirs}"
                raise RunError(
                    f"rank {self.meeting.rank}: its data ended after {count} batches, that of rank "
                    f"{rank} {end}; every rank needs the same batches"
                )


def _digest_of(given: Any) -> str:
    """A tensor's digest, or that of all tensors of a list."""
    if isinstance(given, torch.Tensor):
        return digest(given)
    digests = " ".join(digest(tensor) for tensor in given)
    return f"{len(given)} tensors {hashlib.sha256(digests.encode()).hexdigest()[:16]}"


@torch.no_grad()
def digest(tensor: torch.Tensor) -> str:
    """Shape, dtype, and a sum of all elements' bits weighted by their positions."""
    flat = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    flat = flat.resolve_neg().reshape(-1)
    bits = flat.view(INTEGERS[flat.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for begin in range(0, bits.numel(), PART):
        part = bits[begin : begin + PART]
        positions = torch.arange(begin + 1, begin + 1 + part.numel(), device=tensor.device)
        weights = positions.mul_(GOLDEN)
        # splitmix64 shifts by 30, 27 and 31; one shift between the products is enough here.
        weights ^= weights >> 29
        total += weights.mul_(MIX).mul_(part).sum()
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{dtype}{list(tensor.shape)} {int(total) % 2**64:016x}"
