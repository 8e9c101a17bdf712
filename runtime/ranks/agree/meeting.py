"""The store where the ranks of a run meet, and compare what must be equal on all of them.

So a difference is a message, and not a hang or a mixture of two runs.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from pipecut.errors import DisagreementError, PeerLostError, RunError
from pipecut.runtime.health.timeouts import start_timeout
from pipecut.runtime.ranks.environment import number_in_environment
from pipecut.runtime.ranks.rendezvous import find_ranks

# What a rank compares, by subject and name: {"plan": {"schedule": "1f1b"}}.
Compared = Mapping[str, Mapping[str, str]]

# Seconds between looks at the store: short at first, since most waits are.
FIRST_LOOK, LAST_LOOK = 0.0005, 0.25
# Seconds that the host of the store stays, for others to read why it ends.
LINGER = 5.0
# Differences in a message, at most.
LISTED = 8
LEFT, FAILED = "left", "failed"


@dataclass
class Meeting:
    """This rank's side of the meeting. Without a store it is the only rank, and agrees with itself.

    `meetings` counts comparisons. All ranks compare the same things in the same order, so that the
    count names one comparison on all of them.
    """

    rank: int
    size: int
    store: Store | None = None
    meetings: int = field(default=0)

    def agree(
        self,
        subject: str,
        compared: Compared,
        remedies: Mapping[str, str],
        limit: float,
        group: str = "",
    ) -> int:
        """Compare values with those of all ranks of this rank's `group`, which all ranks name.

        `subject` names the comparison in messages; `remedies` says what to do, by the first key of
        `compared`. Returns how many different values all ranks have. Raises DisagreementError, with
        ranks and values, on every rank; PeerLostError or RunError when a rank does not come within
        `limit` seconds.
        """
        if self.store is None:
            return 1
        self.meetings += 1
        key = f"agree/{self.meetings}/"
        text = json.dumps([group, compared], sort_keys=True)
        texts = self._exchange(key, text, subject, limit)
        if any(theirs != text for theirs in texts):
            said = [json.loads(theirs) for theirs in texts]
            for name in dict.fromkeys(group_of for group_of, _ in said):
                members = {r: theirs for r, (of, theirs) in enumerate(said) if of == name}
                if any(theirs != next(iter(members.values())) for theirs in members.values()):
                    self._linger(key)
                    raise DisagreementError(differences(subject, members, remedies))
        # All have come here, so all have read the previous comparison.
        self.store.delete_key(f"agree/{self.meetings - 1}/{self.rank}")
        return len({json.dumps(json.loads(theirs)[1]) for theirs in texts})

    def come_together(self, subject: str, limit: float) -> None:
        """Wait for every rank. Raises PeerLostError when one failed, RunError after the limit."""
        self.agree(subject, {}, {}, limit)

    def first_text(self, subject: str, text: str) -> str:
        """The text of the first rank that has one. All ranks must call it together.

        Raises as `come_together`.
        """
        if self.store is None:
            return text
        self.meetings += 1
        key = f"agree/{self.meetings}/"
        texts = self._exchange(key, text, subject, start_timeout())
        self._linger(key)
        return next(theirs for theirs in texts if theirs)

    def leave(self, steps: int) -> None:
        """Record that this rank makes no more steps."""
        self._record(LEFT, f"rank {self.rank} ended after {steps} steps")

    def fail(self) -> None:
        """Record that this rank cannot start, so that no other one waits for it."""
        self._record(FAILED, f"rank {self.rank}")

    def post(self, key: str, text: str) -> None:
        """Record a text for the other ranks to see, without waiting for them."""
        self._record(f"{key}/{self.rank}", text)

    def everyone(self, key: str, patience: float) -> list[str | None]:
        """What each rank posted within so many seconds; None for a rank that posted nothing."""
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
        """Which rank makes no more steps, where one recorded that."""
        try:
            if self.store is not None and self.store.check([LEFT]):
                return str(self.store.get(LEFT).decode())
        except (RuntimeError, dist.DistError):
            # The store ended with its host.
            pass
        return None

    def _record(self, key: str, text: str) -> None:
        try:
            if self.store is not None and not self.store.check([key]):
                self.store.set(key, text)
        except (RuntimeError, dist.DistError):
            # The store ended with its host, which ended first.
            pass

    def _exchange(self, key: str, text: str, subject: str, limit: float) -> list[str]:
        """The text of every rank, in their order."""
        assert self.store is not None
        keys = [f"{key}{rank}" for rank in range(self.size)]
        try:
            self.store.set(keys[self.rank], text)
            end, pause = time.monotonic() + limit, FIRST_LOOK
            while not self.store.check(keys):
                self._ended(subject)
                if time.monotonic() > end:
                    missing = [
                        rank for rank, name in enumerate(keys) if not self.store.check([name])
                    ]
                    ranks = listed_ranks(missing)
                    raise RunError(
                        f"rank {self.rank}: {subject}: {ranks} did not come within {limit:g} s"
                    )
                time.sleep(pause)
                pause = min(2 * pause, LAST_LOOK)
            if self.store.has_extended_api():  # type: ignore[attr-defined]
                return [value.decode() for value in self.store.multi_get(keys)]
            return [self.store.get(name).decode() for name in keys]
        except (RuntimeError, dist.DistError) as error:
            raise self._gone(subject, error) from None

    def _gone(self, subject: str, error: Exception) -> PeerLostError:
        lost = "the store of the ranks went with its host"
        return PeerLostError(f"rank {self.rank}: {subject}: {lost}: {_first_line(error)}")

    def _ended(self, subject: str) -> None:
        """Raises where another rank will never come."""
        assert self.store is not None
        if self.store.check([FAILED]):
            failed = "another rank could not start; its own message says why"
            raise PeerLostError(f"rank {self.rank}: {subject}: {failed}")
        ended = self.left()
        if ended is not None:
            raise RunError(ended_early(self.rank, ended))

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


def ended_early(rank: int, ended: str) -> str:
    """The message of a rank that goes on while another one has ended, as `left` returns it."""
    return (
        f"rank {rank}: {ended}, and this rank goes on: every rank needs the same number of "
        "batches; give all ranks the same data, or the same number of steps"
    )


# Plans that this process loaded: each uses keys of its own.
_loads = 0


def meet() -> Meeting:
    """The meeting of this run's ranks. Raises RunError when the store cannot be reached."""
    global _loads
    rank, size = number_in_environment("RANK", 0), number_in_environment("WORLD_SIZE", 1)
    _loads += 1
    if size == 1:
        return Meeting(rank, size)
    store = find_ranks(rank, size, timedelta(seconds=start_timeout()))
    return Meeting(rank, size, PrefixStore(f"meeting/{_loads}", store))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def differences(subject: str, by_rank: Mapping[int, Compared], remedies: Mapping[str, str]) -> str:
    """The message: every value that differs, with the ranks that have it; then what to do."""
    of_all = by_rank.values()
    names = {(kind, name) for compared in of_all for kind in compared for name in compared[kind]}
    lines, kinds = [], []
    for kind, name in sorted(names):
        values = {r: c.get(kind, {}).get(name, "nothing") for r, c in by_rank.items()}
        if len(set(values.values())) > 1:
            lines.append(f"  {name}: {_by_value(values)}")
            kinds.append(kind)
    listed = lines[:LISTED]
    if len(lines) > LISTED:
        listed.append(f"  and {len(lines) - LISTED} more")
    advice = dict.fromkeys(remedies[kind] for kind in kinds if kind in remedies)
    last = ["; ".join(advice)] if advice else []
    return "\n".join([f"{subject} differs between ranks:", *listed, *last])


def _by_value(values: Mapping[int, str]) -> str:
    """`1f1b on ranks 0-2; gpipe on rank 3`."""
    ranks_of: dict[str, list[int]] = {}
    for rank, value in values.items():
        ranks_of.setdefault(value, []).append(rank)
    # The values of few ranks last: they are likely to be wrong.
    parts = sorted(ranks_of.items(), key=lambda entry: -len(entry[1]))
    return "; ".join(f"{value} on {listed_ranks(ranks)}" for value, ranks in parts)


def listed_ranks(ranks: Sequence[int]) -> str:
    """`rank 3`, `ranks 0-2, 5`."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and runs[-1][-1] == rank - 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    text = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"rank{'s' if len(ranks) != 1 else ''} {text}"
