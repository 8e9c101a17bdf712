"""Ctrl-C and SIGTERM end a training in order: every rank stops after the same step.

So what the ranks have is of one step, and can be kept. The first rank that is asked to stop says in
the store after which step: the next one, which no rank can finish without it. Asked again, or where
it cannot come so far, a rank ends at once.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType

import torch.distributed as dist

from pipecut.runtime.health.interrupt import INTERRUPTED
from pipecut.runtime.health.rank_errors import naming_errors

KEY = "pipecut/stop"
# A terminal and a launcher may both pass on one Ctrl-C.
AGAIN = 1.0
# Whoever sent SIGTERM often waits 30 s before it sends SIGKILL.
PATIENCE = 20.0


class Stopping:
    """Whether this rank, or another one, was asked to stop."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.asked = 0.0
        self.said = self.agreed = False

    def listen(self) -> None:
        """Take signals from now on."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)
        # Handlers run between two lines of Python, and this rank may be waiting in one.
        watching = threading.Thread(target=self._watch, args=(reading,), daemon=True)
        watching.start()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked and now - self.asked > AGAIN:
            raise KeyboardInterrupt
        self.asked = self.asked or now

    def _watch(self, reading: int) -> None:
        while os.read(reading, 1)[0] not in (signal.SIGINT, signal.SIGTERM):
            pass
        time.sleep(PATIENCE)
        if not self.agreed:
            text = f"pipecut: rank {self.rank}: stopped in the middle of a step\n"
            print(text, end="", file=sys.stderr, flush=True)
            os._exit(INTERRUPTED)

    def after(self, steps: int) -> bool:
        """Whether to stop now that so many steps are done: the same answer on every rank."""
        if self.size == 1:
            self.agreed = bool(self.asked)
            return self.agreed
        with naming_errors(f"rank {self.rank}, looking whether to stop"):
            store = dist.distributed_c10d._get_default_store()
            if self.asked and not self.said:
                # Whoever is first says it.
                store.compare_set(KEY, "", str(steps + 1))
                self.said = True
            self.agreed = store.check([KEY]) and steps >= int(store.get(KEY))
        return self.agreed
