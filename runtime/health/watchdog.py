"""Beside the ranks of this machine: find the rank that stands still, and end it before the backend gives up."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pipecut.runtime.health.status import RankStatus, State, read_status
from pipecut.runtime.health.timeouts import save_timeout, start_timeout

# Seconds between looks.
PERIOD = 0.5


@dataclass(frozen=True)
class Limits:
    """Seconds that a rank may stay in a state: any other one, STARTING, SAVING."""

    stall: float
    start: float
    save: float

    def of(self, state: State) -> float:
        """The limit of a state."""
        return {State.STARTING: self.start, State.SAVING: self.save}.get(state, self.stall)


@dataclass(frozen=True)
class Seen:
    """A rank as a watcher sees it: for how many seconds it has been in its state, and stopped by a signal.

    `doing` is None for a rank that has not begun to say. `gone`: its process ended. `text` is what it
    says of itself, where it runs on another host.
    """

    rank: int
    doing: RankStatus | None
    seconds: float
    stopped_seconds: float = 0.0
    gone: bool = False
    text: str | None = None

    @property
    def state(self) -> State:
        """What it does; one that has not said so starts."""
        return self.doing.state if self.doing is not None else State.STARTING

    def __str__(self) -> str:
        stopped = ", stopped by a signal" if self.stopped_seconds else ""
        return f"{self.text or self.doing or 'before it began'}{stopped}"


def standing_still(ranks: Sequence[Seen], limits: Limits) -> list[Seen]:
    """The ranks to blame, the first to stand still first; none while some rank may yet go on.

    A rank that waits is to blame only where no other rank is. A rank that is stopped by a signal, or that has
    ended its work and does not exit, is to blame whatever the others do.
    """
    alive = [seen for seen in ranks if not seen.gone]
    blamed = [seen for seen in alive if seen.stopped_seconds >= limits.stall]
    blamed += [seen for seen in alive if seen.state is State.ENDED and seen.seconds >= limits.stall]
    at_work = [seen for seen in alive if seen.state is not State.ENDED]
    if not blamed and at_work and all(seen.seconds >= limits.of(seen.state) for seen in at_work):
        not_waiting = [
            s
            for s in at_work
            if s.state not in (State.WAITING, State.COMPARING) or s.stopped_seconds
        ]
        blamed = not_waiting or at_work
    return sorted(blamed, key=lambda seen: -seen.seconds)


def stall_message(first: Seen, ranks: Sequence[Seen], limits: Limits) -> str:
    """Which rank stood still, how long, at what; and what every rank did."""
    every = "".join(f"\n  rank {seen.rank}: {seen}" for seen in ranks)
    limit = limits.of(first.state)
    return f"rank {first.rank} has stood still for {limit:g} s {first}, and was ended{every}"


class Watchdog(threading.Thread):
    """Looks at what the ranks note until it is told to end. `found` says who stood still, once one did."""

    def __init__(self, folder: Path, pids: Sequence[int], limit: float) -> None:
        super().__init__(name="pipecut-watchdog", daemon=True)
        self.folder, self.pids = folder, pids
        self.limits = Limits(limit, start_timeout(), save_timeout())
        self.begun = time.monotonic()
        self.stopped_since: dict[int, float] = {}
        self.over = threading.Event()
        self.found: tuple[int, str] | None = None

    def run(self) -> None:
        """Look until told to end, or one stands still."""
        while not self.over.wait(PERIOD):
            ranks = [self._look(rank) for rank in range(len(self.pids))]
            blamed = standing_still(ranks, self.limits)
            if not blamed:
                continue
            self.found = blamed[0].rank, stall_message(blamed[0], ranks, self.limits)
            for seen in blamed:
                with suppress(ProcessLookupError):
                    os.kill(self.pids[seen.rank], signal.SIGKILL)
            return

    def _look(self, rank: int) -> Seen:
        doing, now = read_status(self.folder, rank), time.monotonic()
        seen = Seen(rank, doing, now - (doing.since if doing is not None else self.begun))
        state = process_state(self.pids[rank])
        if state is None or state in "ZX":
            return replace(seen, gone=True)
        if state not in "Tt":
            self.stopped_since.pop(rank, None)
            return seen
        since = self.stopped_since.setdefault(rank, now)
        # Never 0, which says that it runs.
        return replace(seen, stopped_seconds=max(now - since, 1e-3))

    def end(self) -> None:
        """End it and wait."""
        self.over.set()
        self.join()


def process_state(pid: int) -> str | None:
    """The letter that Linux has for a process's state, such as T for stopped; None where there is none.

    Other systems do not say, so that their processes count as running.
    """
    if not Path("/proc/self/stat").exists():
        return "R"
    try:
        # The state follows the name, which may have spaces, in parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return None
