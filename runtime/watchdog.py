"""Beside the ranks of this machine: says what each does, and ends the one that stands still before the backend gives up."""

import os
import signal
import threading
import time
from pathlib import Path

from pipecut.runtime.status import Doing, State, read_status

# Seconds between looks.
PERIOD = 0.5


class Watchdog(threading.Thread):
    """Looks at what the ranks note until it is told to end. `found` says who stood still, once one did."""

    def __init__(self, folder: Path, ranks: int, limit: float) -> None:
        super().__init__(name="pipecut-watchdog", daemon=True)
        self.folder, self.ranks, self.limit = folder, ranks, limit
        self.over = threading.Event()
        self.found: tuple[int, str] | None = None

    def run(self) -> None:
        """Look until told to end, or one stands still."""
        while not self.over.wait(PERIOD):
            doing = [read_status(self.folder, rank) for rank in range(self.ranks)]
            known = [one for one in doing if one is not None and one.state not in (State.STARTING, State.ENDED)]
            # As long as one goes on, others may wait for it. A start, and an end, are under the backend's own limits.
            if len(known) < self.ranks or time.monotonic() - max(one.since for one in known) < self.limit:
                continue
            still = [rank for rank, one in enumerate(known) if _at_fault(one)] or list(range(self.ranks))
            first = min(still, key=lambda rank: known[rank].since)
            everyone = "".join(f"\n  rank {rank}: {one}" for rank, one in enumerate(known))
            self.found = first, f"rank {first} has stood still for {self.limit:g} s {known[first]}, and was ended{everyone}"
            for rank in still:
                os.kill(known[rank].pid, signal.SIGKILL)
            return

    def end(self) -> None:
        """End it and wait."""
        self.over.set()
        self.join()


def _at_fault(doing: Doing) -> bool:
    """Whether it does not wait for another rank, or was stopped by a signal."""
    if doing.state is not State.WAITING:
        return True
    try:
        # The state follows the name, which may have spaces, in parentheses.
        return Path(f"/proc/{doing.pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False
