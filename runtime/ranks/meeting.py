"""Where the ranks of a run meet before any of them can wait for another: the store they found each other through.

What must be alike on all ranks is compared here, so that a difference is a message and not a hang or a mixture.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from pipecut.errors import DisagreementError, PeerLostError, RunError
from pipecut.runtime.health.timeouts import start_timeout
from pipecut.runtime.ranks.environment import number_in_environment
from pipecut.runtime.ranks.rendezvous import find_ranks

# What each rank has, by what it is of and its name: {"plan": {"schedule": "1f1b"}}.
Facts = Mapping[str, Mapping[str, str]]

# Seconds between looks at the store: short at first, since most waits are.
FIRST_LOOK, LAST_LOOK = 0.0005, 0.25
# The host of the store stays so long for others to read why it ends.
LINGER = 5.0
# Differences that a message lists.
LISTED = 8
LEFT, FAILED = "left", "failed"


@dataclass
class Meeting:
    """This rank's side. Without a store it is alone, and agrees with itself.

    `meetings` counts what was compared, which is the same on all ranks: they compare the same things in the same order.
    """

    rank: int
    size: int
    store: Store | None = None
    meetings: int = field(default=0)

    def agree(self, what: str, facts: Facts, remedies: Mapping[str, str], limit: float) -> None:
        """Compare facts with those of all ranks. Raises DisagreementError on every rank, naming ranks and values.

        `what` names it for people, and `remedies` says what to do by the first key of the facts. Raises PeerLostError or
        RunError when a rank does not come within so many seconds.
        """
        if self.store is None:
            return
        self.meetings += 1
        key = f"agree/{self.meetings}/"
        own = json.dumps(facts, sort_keys=True)
        everyone = self._exchange(key, own, what, limit)
        if any(theirs != own for theirs in everyone):
            self._linger(key)
            raise DisagreementError(
                _differences(what, [json.loads(theirs) for theirs in everyone], remedies)
            )
        # All have come here, so all have read what was compared before.
        self.store.delete_key(f"agree/{self.meetings - 1}/{self.rank}")

    def come_together(self, what: str, limit: float) -> None:
        """Wait until every rank is here. Raises PeerLostError when one failed, RunError when it takes longer."""
        self.agree(what, {}, {}, limit)

    def leave(self, steps: int) -> None:
        """Note that this rank makes no more steps."""
        self._note(LEFT, f"rank {self.rank} ended after {steps} steps")

    def fail(self) -> None:
        """Note that this rank cannot start, so that no other one waits for it."""
        self._note(FAILED, f"rank {self.rank}")

    def post(self, key: str, text: str) -> None:
        """Note something for the other ranks to see, without waiting for them."""
        self._note(f"{key}/{self.rank}", text)

    def everyone(self, key: str, patience: float) -> list[str | None]:
        """What each rank has posted within so many seconds; None of one that has not."""
        assert self.store is not None
        keys = [f"{key}/{rank}" for rank in range(self.size)]
        end, pause = time.monotonic() + patience, FIRST_LOOK
        try:
            while not self.store.check(keys) and time.monotonic() < end:
                time.sleep(pause)
                pause = min(2 * pause, LAST_LOOK)
            return [
                self.store.get(name).decode() if self.store.check([name]) else None for name in keys
            ]
        except (RuntimeError, dist.DistError) as error:
            raise self._gone(key, error) from None

    def left(self) -> str | None:
        """Which rank makes no more steps, where one said so."""
        try:
            if self.store is not None and self.store.check([LEFT]):
                return str(self.store.get(LEFT).decode())
        except (RuntimeError, dist.DistError):
            # The store went with its host.
            pass
        return None

    def _note(self, key: str, text: str) -> None:
        try:
            if self.store is not None and not self.store.check([key]):
                self.store.set(key, text)
        except (RuntimeError, dist.DistError):
            # The store went with its host, which is who ended first.
            pass

    def _exchange(self, key: str, own: str, what: str, limit: float) -> list[str]:
        """What every rank said of this."""
        assert self.store is not None
        keys = [f"{key}{rank}" for rank in range(self.size)]
        try:
            self.store.set(keys[self.rank], own)
            end, pause = time.monotonic() + limit, FIRST_LOOK
            while not self.store.check(keys):
                self._ended(what)
                if time.monotonic() > end:
                    missing = [
                        rank for rank, name in enumerate(keys) if not self.store.check([name])
                    ]
                    raise RunError(
                        f"rank {self.rank}: {what}: {_ranks(missing)} did not come within {limit:g} s"
                    )
                time.sleep(pause)
                pause = min(2 * pause, LAST_LOOK)
            if self.store.has_extended_api():  # type: ignore[attr-defined]
                return [value.decode() for value in self.store.multi_get(keys)]
            return [self.store.get(name).decode() for name in keys]
        except (RuntimeError, dist.DistError) as error:
            raise self._gone(what, error) from None

    def _gone(self, what: str, error: Exception) -> PeerLostError:
        return PeerLostError(
            f"rank {self.rank}: {what}: the store of the ranks went with its host: {_first_line(error)}"
        )

    def _ended(self, what: str) -> None:
        """Raises where another rank will never come."""
        assert self.store is not None
        if self.store.check([FAILED]):
            raise PeerLostError(
                f"rank {self.rank}: {what}: another rank could not start; its own message says why"
            )
        left = self.left()
        if left is not None:
            raise RunError(ended_early(self.rank, left))

    def _linger(self, key: str) -> None:
        """Leave when all have read, since the store may go with its host."""
        assert self.store is not None
        try:
            end = time.monotonic() + LINGER
            self.store.add(f"{key}read", 1)
            while self.store.add(f"{key}read", 0) < self.size and time.monotonic() < end:
                time.sleep(0.01)
        except (RuntimeError, dist.DistError):
            pass


def ended_early(rank: int, left: str) -> str:
    """The message of a rank that goes on while another one has ended."""
    return (
        f"rank {rank}: {left}, and this rank goes on: every rank needs the same number of batches; "
        "give all ranks the same data, or the same number of steps"
    )


# Loads of this process: each has keys of its own.
_loads = 0


def meet() -> Meeting:
    """The meeting of the ranks that torchrun started. Raises RunError when the store cannot be reached."""
    global _loads
    rank, size = number_in_environment("RANK", 0), number_in_environment("WORLD_SIZE", 1)
    _loads += 1
    if size == 1:
        return Meeting(rank, size)
    store = find_ranks(rank, size, timedelta(seconds=start_timeout()))
    return Meeting(rank, size, PrefixStore(f"meeting/{_loads}", store))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _differences(
    what: str, everyone: list[dict[str, dict[str, str]]], remedies: Mapping[str, str]
) -> str:
    """Every value that differs, with the ranks that have it; then what to do."""
    named = {(kind, name) for facts in everyone for kind, own in facts.items() for name in own}
    lines, kinds = [], []
    for kind, name in sorted(named):
        values = [facts.get(kind, {}).get(name, "nothing") for facts in everyone]
        if len(set(values)) == 1:
            continue
        by_value = {
            value: [r for r, other in enumerate(values) if other == value]
            for value in dict.fromkeys(values)
        }
        # The odd ones last: they are likely to be wrong.
        parts = sorted(by_value.items(), key=lambda entry: -len(entry[1]))
        lines.append(
            f"  {name}: " + "; ".join(f"{value} on {_ranks(ranks)}" for value, ranks in parts)
        )
        kinds.append(kind)
    shown = lines[:LISTED] + ([f"  and {len(lines) - LISTED} more"] if len(lines) > LISTED else [])
    todo = "; ".join(dict.fromkeys(remedies[kind] for kind in kinds if kind in remedies))
    return f"{what} differs between ranks:\n" + "\n".join(shown) + (f"\n{todo}" if todo else "")


def _ranks(ranks: list[int]) -> str:
    """`rank 3`, `ranks 0-2, 5`."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and runs[-1][-1] == rank - 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    text = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"rank{'s' if len(ranks) != 1 else ''} {text}"
