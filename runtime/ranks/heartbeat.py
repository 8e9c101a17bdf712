"""Ranks of several hosts tell each other that they are alive, through the store, and name the one that is not.

Every rank says every few seconds what it does. The first and the last rank of each host look at what all say, so that
each rank is looked at by another one. Who goes silent
(its host is lost, its process was killed or stopped) or stands still is named with host, rank, step and action on
every host; then every rank ends, so that torchrun may start all of them again.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch.distributed as dist
from torch._C._distributed_c10d import Store

from pipecut.errors import PeerLostError
from pipecut.runtime.health.last_words import LastWords, end_now, say
from pipecut.runtime.health.status import RankStatus, State, Status
from pipecut.runtime.health.timeouts import (
    save_timeout,
    silence_timeout,
    stall_timeout,
    start_timeout,
)
from pipecut.runtime.health.watchdog import Limits, Seen, stall_message, standing_still
from pipecut.runtime.ranks.roll_call import Roll

# Seconds between two signs of life, and after how many a rank counts as silent once another one lost a peer.
PERIOD, SUSPECT = 2.0, 7.0
# Why the run ends, set by whoever found out first.
FAULT = "fault"


@dataclass(frozen=True)
class Heard:
    """A rank's last sign of life: its number, since when it is the last on the listener's clock, what it said."""

    rank: int
    host: str
    number: int
    at: float
    state: State = State.STARTING
    seconds: float = 0.0
    text: str = "before it began"

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"rank {self.rank} on host {self.host}"


def hear(before: Heard, said: str | None, now: float) -> Heard:
    """What is known of a rank after a look at what it says."""
    if said is None:
        return before
    number, state, seconds, text = json.loads(said)
    if number == before.number:
        return before
    return replace(
        before, number=number, at=now, state=State(state), seconds=float(seconds), text=str(text)
    )


def silent(everyone: Sequence[Heard], now: float, limit: float) -> Heard | None:
    """The rank that has been silent the longest, where that is too long; one that ended well may be."""
    quiet = [h for h in everyone if h.state is not State.ENDED and now - h.at >= limit]
    return min(quiet, key=lambda heard: heard.at, default=None)


def not_there(heard: Heard, now: float) -> bool:
    """Whether a rank ended, or has said nothing for long enough to be doubted."""
    return heard.state is State.ENDED or now - heard.at >= SUSPECT


def early_message(everyone: Sequence[Heard]) -> str | None:
    """Which ranks ended by themselves, where others yet need them."""
    names = [heard.name for heard in everyone if heard.state is State.ENDED]
    if not names:
        return None
    return f"{', '.join(names)} ended while other ranks went on: its loop left early, or code exited Python"


def silence_message(heard: Heard, everyone: Sequence[Heard], now: float) -> str:
    """Who went silent, when, at what, and what all did last."""
    every = "".join(f"\n  {other.name}: {other.text}" for other in everyone)
    return (
        f"{heard.name} has been silent for {now - heard.at:.0f} s, last {heard.text}: its process was killed or "
        f"stopped, or its host is lost{every}"
    )


def still_message(everyone: Sequence[Heard], now: float, limits: Limits) -> tuple[int, str] | None:
    """The rank that stands still though it is alive, as the watchdog of one machine finds it."""
    ranks = [
        Seen(
            heard.rank,
            RankStatus(0, heard.state, 0, None, 0.0),
            heard.seconds + now - heard.at,
            gone=heard.state is State.ENDED,
            text=heard.text,
        )
        for heard in everyone
    ]
    blamed = standing_still(ranks, limits)
    if not blamed:
        return None
    text = stall_message(blamed[0], ranks, limits)
    first = f"rank {blamed[0].rank}"
    return blamed[0].rank, text.replace(first, everyone[blamed[0].rank].name, 1)


class Heartbeat(threading.Thread):
    """This rank's signs of life, and on the first and last rank of a host the look at all others'."""

    def __init__(self, store: Store, rank: int, roll: Roll, status: Status) -> None:
        super().__init__(name="pipecut-heartbeat", daemon=True)
        self.store, self.rank, self.status, self.roll = store, rank, status, roll
        now = time.monotonic()
        hosts = [str(fact["host"]) for fact in roll.facts]
        self.heard = [Heard(other, host, -1, now) for other, host in enumerate(hosts)]
        here = [other for other, host in enumerate(hosts) if host == hosts[rank]]
        self.first, self.last = here[0], here[-1]
        self.watching = rank in (self.first, self.last)
        self.limits = Limits(stall_timeout(), start_timeout(), save_timeout())
        self.silence = silence_timeout()
        self.number, self.looked, self.reached = 0, now, now
        self.over = threading.Event()
        LastWords.explain = self.explain

    def run(self) -> None:
        """Until told to end."""
        while not self.over.wait(PERIOD):
            with suppress(RuntimeError, dist.DistError):
                self._beat()
                self.reached = time.monotonic()
            # Whoever ended well may take the store along: what comes after the last step needs none.
            needed = self.status.state in (State.COMPUTING, State.WAITING)
            if needed and time.monotonic() - self.reached > self.silence:
                say(
                    f"pipecut: rank {self.rank}: the store of this run has not answered for {self.silence:g} s: "
                    "the host that torchrun's rendezvous is on is lost, or cannot be reached"
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
        still = still_message(self.heard, now, self.limits)
        if still is not None:
            self._blame(*still)

    def _say(self) -> None:
        status, self.number = self.status.current(), self.number + 1
        seconds = time.monotonic() - self.status.since
        self.store.set(
            f"beat/{self.rank}", json.dumps([self.number, status.state, seconds, str(status)])
        )

    def _look(self) -> None:
        now = time.monotonic()
        if now - self.looked > 2 * PERIOD:
            # This process itself stood still meanwhile, so that others were not heard.
            self.heard = [replace(heard, at=now) for heard in self.heard]
        self.looked = now
        keys = [f"beat/{other}" for other in range(len(self.heard))]
        if self.store.check(keys):
            texts: list[str | None] = [text.decode() for text in self.store.multi_get(keys)]
        else:
            texts = [self.store.get(k).decode() if self.store.check([k]) else None for k in keys]
        self.heard = [hear(*pair, now) for pair in zip(self.heard, texts, strict=True)]

    def _blame(self, rank: int, message: str) -> None:
        """End the run, and the rank where it is of this host."""
        self.store.compare_set(FAULT, "", message)
        fact = self.roll.facts[rank]
        if fact["host"] == self.heard[self.rank].host and rank != self.rank:
            with suppress(OSError):
                os.kill(int(fact["pid"]), signal.SIGKILL)
        self._end(self.store.get(FAULT).decode(), rank)

    def _speaks(self, blamed: int | None = None) -> bool:
        """Whether this rank speaks for its host: the first one does, and the last one where the first cannot."""
        if self.rank == self.first or self.rank != self.last:
            return self.rank == self.first
        first = self.heard[self.first]
        return first.rank == blamed or not_there(first, time.monotonic())

    def _end(self, message: str, blamed: int | None = None) -> None:
        if self._speaks(blamed):
            say(f"pipecut: {message}")
        end_now(PeerLostError.exit_code)

    def explain(self, error: BaseException, text: str) -> str:
        """The message of an error here, for all; for a rank that lost another one, which one that was."""
        with suppress(RuntimeError, dist.DistError):
            if isinstance(error, KeyboardInterrupt):
                return text
            if not isinstance(error, PeerLostError):
                self.store.compare_set(FAULT, "", f"on host {self.heard[self.rank].host}: {text}")
                return text
            self.over.set()
            begun = time.monotonic()
            limit = begun + self.silence
            while time.monotonic() < limit and not self.store.check([FAULT]):
                # It lives, and says so.
                self._say()
                self._look()
                heard = silent(self.heard, time.monotonic(), SUSPECT)
                message = silence_message(heard, self.heard, time.monotonic()) if heard else None
                if heard is None and time.monotonic() - begun > SUSPECT + PERIOD:
                    message = early_message(self.heard)
                if message is not None:
                    self.store.compare_set(FAULT, "", message)
                time.sleep(0.5)
            if self._speaks() and self.store.check([FAULT]):
                return f"{text}\n{self.store.get(FAULT).decode()}"
        return text

    def end(self) -> None:
        """Say that this rank ended well, and stop."""
        self.over.set()
        with suppress(RuntimeError, dist.DistError):
            self._say()
        LastWords.explain = None


def begin_heartbeat(
    store: Store | None, rank: int, roll: Roll | None, status: Status
) -> Heartbeat | None:
    """Start it where torchrun started the ranks; elsewhere their launcher looks after them."""
    if store is None or roll is None:
        return None
    beating = Heartbeat(store, rank, roll, status)
    beating.start()
    return beating
