"""Every rank is given the same global batch: compared for the first steps and then now and again, since a mixture says nothing.

A rank takes what its stages need of the batch, so ranks that were given different ones train on samples whose inputs and
labels, or halves, do not belong together.
"""

import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from pipecut.errors import PeerLostError, RunError
from pipecut.runtime.health.status import State, Status
from pipecut.runtime.health.timeouts import start_timeout, transfer_timeout
from pipecut.runtime.ranks.meeting import Meeting, ended_early

# The first steps are compared, then each of so many.
FIRST, EVERY = 3, 100
# Elements that are looked at together, so that this takes little memory.
PART = 1 << 20
# Elements count by their place, mixed as splitmix64 does: sums by the place itself are alike for many swaps.
GOLDEN, MIX = -0x61C8864680B583EB, 0x6A09E667F3BCC909
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Seconds until another rank, which has made the same step, has noted that its data ended.
PATIENCE = 10.0
REMEDIES = {
    "batch": "give every rank the same batches in the same order: the whole global batch, not a rank's own share of it as "
    "a DistributedSampler makes; pipecut.load seeds all ranks alike",
    "data": "give every rank the same data",
}


def seed_alike(seed: int) -> None:
    """Seed torch, Python and, where it is imported, NumPy: a DataLoader then shuffles alike on all ranks."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


class SameBatches:
    """The batches of this rank, one after the other, beside those of the others."""

    def __init__(self, meeting: Meeting, status: Status) -> None:
        self.meeting, self.status = meeting, status
        self.calls: Counter[str] = Counter()
        self.ends = 0
        self.end: str | None = None

    def compare(self, batch: Mapping[str, torch.Tensor], call: str = "step") -> None:
        """Raises DisagreementError on every rank where one has another batch, RunError where one has none.

        `call` is what the batch is for; every kind of call has first ones.
        """
        self.calls[call] += 1
        number = self.calls[call]
        if self.meeting.size == 1 or (number > FIRST and number % EVERY):
            return
        # The batch is the user's: who counts what a step allocates is not to count it by this look.
        with self.status.during(State.COMPARING), _disable_current_modes():
            # What is no tensor is compared with the plan.
            tensors = [
                (name, t) for name, t in sorted(batch.items()) if isinstance(t, torch.Tensor)
            ]
            facts = {f"input '{name}'": digest(tensor) for name, tensor in tensors}
            what = (
                f"the batch of step {self.status.step}"
                if call == "step"
                else f"batch {number} of {call}"
            )
            limit = transfer_timeout().total_seconds()
            self.meeting.agree(what, {"batch": {"called": call, **facts}}, REMEDIES, limit)

    def same_length(self, data: Any) -> None:
        """Compare how many batches there are, where the data knows. Raises DisagreementError on every rank."""
        try:
            length = str(len(data))
        except (TypeError, NotImplementedError):
            length = "unknown"
        with self.status.during(State.COMPARING):
            facts = {"data": {"batches": length}}
            self.meeting.agree("the length of the data", facts, REMEDIES, start_timeout())

    @contextmanager
    def ended_early(self) -> Iterator[None]:
        """Where a rank is lost because it made all its steps, raises RunError that says so."""
        try:
            yield
        except PeerLostError as error:
            left = self.meeting.left()
            if left is None:
                raise
            raise RunError(ended_early(self.meeting.rank, left)) from error

    def data_ended(self, batches: int) -> None:
        """Note that this rank's data came to an end after so many batches in all, and begins again."""
        if self.meeting.size > 1:
            self.ends += 1
            self.end = f"ends/{self.ends}"
            self.meeting.post(self.end, str(batches))

    def check_ends(self) -> None:
        """After a step, which no rank can have made without a batch: if this rank's data ended before it, that of all did.

        Raises RunError.
        """
        if self.end is None:
            return
        everyone = self.meeting.everyone(self.end, PATIENCE)
        self.end = None
        own = everyone[self.meeting.rank]
        for rank, theirs in enumerate(everyone):
            if theirs != own:
                what = "goes on" if theirs is None else f"ended after {theirs}"
                raise RunError(
                    f"rank {self.meeting.rank}: its data ended after {own} batches, that of rank {rank} {what}; "
                    "every rank needs the same batches"
                )


@torch.no_grad()
def digest(tensor: torch.Tensor) -> str:
    """Shape, dtype, and a sum over all elements' bits, weighted by their place, in little time and memory."""
    flat = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    flat = flat.resolve_neg().reshape(-1)
    bits = flat.view(INTEGERS[flat.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for begin in range(0, bits.numel(), PART):
        part = bits[begin : begin + PART]
        places = torch.arange(begin + 1, begin + 1 + part.numel(), device=tensor.device).mul_(
            GOLDEN
        )
        places ^= places >> 29
        total += places.mul_(MIX).mul_(part).sum()
    return (
        f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)} {int(total) % 2**64:016x}"
    )
