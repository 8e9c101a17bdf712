"""Ranks of several hosts send signs of life through the store, and name the rank that sends none.

Every rank says every few seconds what it does. The first and the last rank of each host look at
what all say, so that each rank has another one that looks at it. A rank that goes silent (its host
is lost, its process was killed or stopped) or stands still is named with host, step and action on
every host. Then every rank ends, so that torchrun may start all of them again.
"""

import json
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace

import torch.distributed as dist
from torch._C._distributed_c10d import Store

from pipecut.errors import PeerLostError
from pipecut.runtime.health.last_words import LastWords, end_now, say
from pipecut.runtime.health.status import State, Status
from pipecut.runtime.health.timeouts import (
    save_timeout,
    silence_timeout,
    stall_timeout,
    start_timeout,
)
from pipecut.runtime.health.watchdog import Limits
from pipecut.runtime.ranks.roll_call import Roll
from pipecut.runtime.ranks.signs_of_life import (
    SUSPECT,
    Heard,
    doubted,
    early_message,
    find_stall,
    hear,
    silence_message,
    silent,
)

# Seconds between two signs of life.
PERIOD = 2.0
# The key of why the run ends, set by the rank that found out first.
FAULT = "fault"


class Heartbeat(threading.Thread):
    """This rank's signs of life; the first and last rank of a host also look at those of all."""

    def __init__(self, store: Store, rank: int, roll: Roll, status: Status) -> None:
        super().__init__(name="pipecut-heartbeat", daemon=True)
        self.store, self.rank, self.status, self.roll = store, rank, status, roll
        now = time.monotonic()
        hosts = roll.hosts
        self.heard = [Heard(r, host, -1, now) for r, host in enumerate(hosts)]
        of_this_host = [r for r, host in enumerate(hosts) if host == hosts[rank]]
        self.first, self.last = of_this_host[0], of_this_host[-1]
        self.watching = rank in (self.first, self.last)
        self.limits = Limits(stall_timeout(), start_timeout(), save_timeout())
        self.silence = silence_timeout()
        self.number, self.looked, self.reached = 0, now, now
        self.over = threading.Event()
        LastWords.explain = self.explain

    def run(self) -> None:
        """Beat until `end` is called, or the run ends."""
        while not self.over.wait(PERIOD):
            with suppress(RuntimeError, dist.DistError):
                self._beat()
                self.reached = time.monotonic()
            # A rank that ended well may end the store, too: nothing after the last step needs it.
            needed = self.status.state in (State.COMPUTING, State.WAITING)
            if needed and time.monotonic() - self.reached > self.silence:
                say(
                    f"pipecut: rank {self.rank}: the store of this run has not answered for "
                    f"{self.silence:g} s: the host that torchrun's rendezvous is on is lost, or "
                    "cannot be reached"
                )
                end_now(PeerLostError.exit_code)

    def _beat(self) -> None:
        self._say()
        if self.store.check([FAULT]):
            self._end(self.store.get(FAULT).decode())
        if not self.watching:
            return
        self._look()
        now = time.monotonic()
        heard = silent(self.heard, now, self.silence)
        if heard is not None:
            self._blame(heard.rank, silence_message(heard, self.heard, now))
        stall = find_stall(self.heard, now, self.limits)
        if stall is not None:
            self._blame(stall.rank, stall.message)

    def _say(self) -> None:
        status, self.number = self.status.current(), self.number + 1
        seconds = time.monotonic() - self.status.since
        message = json.dumps([self.number, status.state, seconds, str(status)])
        self.store.set(f"beat/{self.rank}", message)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self.looked > 2 * PERIOD:
            # This process itself stood still meanwhile, and so heard nothing.
            self.heard = [replace(heard, at=now) for heard in self.heard]
        self.looked = now
        keys = [f"beat/{r}" for r in range(len(self.heard))]
        if self.store.check(keys):
            messages: list[str | None] = [text.decode() for text in self.store.multi_get(keys)]
        else:
            messages = [self.store.get(k).decode() if self.store.check([k]) else None for k in keys]
        self.heard = [hear(*pair, now) for pair in zip(self.heard, messages, strict=True)]

    def _blame(self, rank: int, message: str) -> None:
        """End the run, and the rank where it is on this host."""
        self.store.compare_set(FAULT, "", message)
        process = self.roll.processes[rank]
        if process.host == self.heard[self.rank].host and rank != self.rank:
            with suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)
        self._end(self.store.get(FAULT).decode(), rank)

    def _speaks(self, blamed: int | None = None) -> bool:
        """Whether this rank prints for its host: the first one does, or the last if that cannot."""
        if self.rank == self.first or self.rank != self.last:
            return self.rank == self.first
        first = self.heard[self.first]
        return first.rank == blamed or doubted(first, time.monotonic())

    def _end(self, message: str, blamed: int | None = None) -> None:
        if self._speaks(blamed):
            say(f"pipecut: {message}")
        end_now(PeerLostError.exit_code)

    def explain(self, error: BaseException, text: str) -> str:
        """Share an error's message with all ranks; where a rank was lost, add which one and why."""
        with suppress(RuntimeError, dist.DistError):
            if isinstance(error, KeyboardInterrupt):
                return text
            if not isinstance(error, PeerLostError):
                self.store.compare_set(FAULT, "", f"on host {self.heard[self.rank].host}: {text}")
                return text
            self.over.set()
            self._find_fault()
            if self._speaks() and self.store.check([FAULT]):
                return f"{text}\n{self.store.get(FAULT).decode()}"
        return text

    def _find_fault(self) -> None:
        """Wait until some rank recorded why the run ends, or record it where it shows."""
        begun = time.monotonic()
        while time.monotonic() < begun + self.silence and not self.store.check([FAULT]):
            # This rank lives, and says so.
            self._say()
            self._look()
            now = time.monotonic()
            heard = silent(self.heard, now, SUSPECT)
            message = silence_message(heard, self.heard, now) if heard else None
            if heard is None and now - begun > SUSPECT + PERIOD:
                message = early_message(self.heard)
            if message is not None:
                self.store.compare_set(FAULT, "", message)
            time.sleep(0.5)

    def end(self) -> None:
        """Say that this rank ended well, and stop."""
        self.over.set()
        with suppress(RuntimeError, dist.DistError):
            self._say()
        LastWords.explain = None


def begin_heartbeat(
    store: Store | None, rank: int, roll: Roll | None, status: Status
) -> Heartbeat | None:
    """Start the heartbeat where torchrun started the ranks; on one machine the launcher watches."""
    if store is None or roll is None:
        return None
    heartbeat = Heartbeat(store, rank, roll, status)
    heartbeat.start()
    return heartbeat
