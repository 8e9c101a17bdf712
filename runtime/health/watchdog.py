"""Find the rank of this machine that stands still, and end it before the backend times out."""

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
    """Seconds that a rank may stay in a state: STARTING, SAVING, and any other (`stall`)."""

    stall: float
    start: float
    save: float

    def of(self, state: State) -> float:
        """The limit of a state."""
        return {State.STARTING: self.start, State.SAVING: self.save}.get(state, self.stall)

    def passed_by(self, seen: "Seen") -> float:
        """The limit by which a rank is to blame: a rank that a signal stopped has that of a stall.

        What it did when the signal came does not matter: it does not go on with it.
        """
        return self.stall if seen.stopped_seconds >= self.stall else self.of(seen.state)


@dataclass(frozen=True)
class Seen:
    """A rank as a watcher sees it: seconds in its state, and seconds since a signal stopped it.

    `status` is None for a rank that has recorded nothing yet. `gone`: its process ended. `text` is
    how the rank describes itself, where it runs on another host.
    """

    rank: int
    status: RankStatus | None
    seconds: float
    stopped_seconds: float = 0.0
    gone: bool = False
    text: str | None = None

    @property
    def state(self) -> State:
        """The recorded state; STARTING before any was recorded."""
        return self.status.state if self.status is not None else State.STARTING

    def __str__(self) -> str:
        stopped = ", stopped by a signal" if self.stopped_seconds else ""
        return f"{self.text or self.status or 'before it began'}{stopped}"


@dataclass(frozen=True)
class Stall:
    """The rank that is blamed for standing still, and the message about all ranks."""

    rank: int
    message: str


def standing_still(ranks: Sequence[Seen], limits: Limits) -> list[Seen]:
    """The ranks to blame, the first to stand still first; none while some rank may make progress.

    A rank that waits is to blame only where every rank waits. A rank that a signal stopped, or
    that ended its work and does not exit, is to blame whatever the others do.
    """
    alive = [seen for seen in ranks if not seen.gone]
    blamed = [seen for seen in alive if seen.stopped_seconds >= limits.stall]
    blamed += [seen for seen in alive if seen.state is State.ENDED and seen.seconds >= limits.stall]
    at_work = [seen for seen in alive if seen.state is not State.ENDED]
    if not blamed and at_work and all(seen.seconds >= limits.of(seen.state) for seen in at_work):
        waiting = State.WAITING, State.COMPARING
        not_waiting = [s for s in at_work if s.state not in waiting or s.stopped_seconds]
        blamed = not_waiting or at_work
    return sorted(blamed, key=lambda seen: -seen.seconds)


def stall_message(first: Seen, ranks: Sequence[Seen], limits: Limits) -> str:
    """Which rank stood still, how long, at what; and what every rank did."""
    statuses = "".join(f"\n  rank {seen.rank}: {seen}" for seen in ranks)
    limit = limits.passed_by(first)
    return f"rank {first.rank} has stood still for {limit:g} s {first}, and was ended{statuses}"


class Watchdog(threading.Thread):
    """Watches what the ranks record until `end`. `stall` is set once a rank stood still."""

    def __init__(self, folder: Path, pids: Sequence[int], limit: float) -> None:
        super().__init__(name="pipecut-watchdog", daemon=True)
        self.folder, self.pids = folder, pids
        self.limits = Limits(limit, start_timeout(), save_timeout())
        self.begun = time.monotonic()
        self.stopped_since: dict[int, float] = {}
        self.over = threading.Event()
        self.stall: Stall | None = None

    def run(self) -> None:
        """Look until `end` is called, or a rank stands still."""
        while not self.over.wait(PERIOD):
            ranks = [self._look(rank) for rank in range(len(self.pids))]
            blamed = standing_still(ranks, self.limits)
            if not blamed:
                continue
            message = stall_message(blamed[0], ranks, self.limits)
            self.stall = Stall(blamed[0].rank, message)
            for seen in blamed:
                with suppress(ProcessLookupError):
                    os.kill(self.pids[seen.rank], signal.SIGKILL)
            return

    def _look(self, rank: int) -> Seen:
        status, now = read_status(self.folder, rank), time.monotonic()
        seen = Seen(rank, status, now - (status.since if status is not None else self.begun))
        state = process_state(self.pids[rank])
        if state is None or state in "ZX":
            return replace(seen, gone=True)
        if state not in "Tt":
            self.stopped_since.pop(rank, None)
            return seen
        since = self.stopped_since.setdefault(rank, now)
        # Never 0, which means that the process runs.
        return replace(seen, stopped_seconds=max(now - since, 1e-3))

    def end(self) -> None:
        """End the thread and wait for it."""
        self.over.set()
        self.join()


def process_state(pid: int) -> str | None:
    """Linux's letter for a process's state, such as T for stopped; None where the process is gone.

    Other systems have no such file: their processes count as running.
    """
    if not Path("/proc/self/stat").exists():
        return "R"
    try:
        # The state follows the name, which may have spaces, in parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return None
