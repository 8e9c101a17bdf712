"""The ranks of one attempt find each other in a store that may have keys of earlier attempts.

torchrun keeps its store over restarts, and numbers restarts on each host by itself, so neither
tells attempts apart. Here each process takes part under a name that no other process has:

    every rank    hello/RANK = its name, host and pid        in every attempt
    rank 0        roster = a new attempt's name, all hellos  whenever a hello changed
    every rank    seen/ATTEMPT/RANK                          once the roster has its own name
    rank 0        go/ATTEMPT                                 once all have seen it

A process of an earlier attempt is in no later roster, and cannot have seen it.
"""

import json
import secrets
import time
from dataclasses import asdict, dataclass

from torch._C._distributed_c10d import Store

from pipecut.errors import RunError

# Seconds between looks at the store: short at first, since most waits are.
FIRST_LOOK, LAST_LOOK = 0.005, 0.25


@dataclass(frozen=True)
class RankProcess:
    """A rank's process: its host and its pid there."""

    host: str
    pid: int


@dataclass(frozen=True)
class Roll:
    """All ranks of an attempt, and the process of each."""

    attempt: str
    processes: tuple[RankProcess, ...]

    @property
    def hosts(self) -> list[str]:
        """The host of each rank."""
        return [process.host for process in self.processes]


@dataclass(frozen=True)
class _Hello:
    """The name under which a process takes part, and the process."""

    name: str
    process: RankProcess

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def load(text: bytes | str) -> "_Hello":
        hello = json.loads(text)
        return _Hello(str(hello["name"]), RankProcess(**hello["process"]))


def call_roll(store: Store, rank: int, size: int, process: RankProcess, limit: float) -> Roll:
    """Wait for every rank of this attempt. Raises RunError with the ranks that did not come."""
    end, pause = time.monotonic() + limit, FIRST_LOOK
    hello = _Hello(secrets.token_hex(8), process)
    store.set(f"hello/{rank}", hello.dump())
    called: list[_Hello] = []
    attempt = ""
    while True:
        hellos = _hellos(store, size) if rank == 0 else None
        if hellos is not None and hellos != called:
            called, attempt = hellos, secrets.token_hex(8)
            store.set("roster", json.dumps([attempt, [h.dump() for h in hellos]]))
        roll = _roster(store, rank, hello)
        if roll is not None:
            store.set(f"seen/{roll.attempt}/{rank}", "")
            keys = [f"seen/{roll.attempt}/{r}" for r in range(size)]
            if rank == 0 and roll.attempt == attempt and store.check(keys):
                store.set(f"go/{attempt}", "")
            if store.check([f"go/{roll.attempt}"]):
                return roll
        if time.monotonic() > end:
            raise RunError(_missing(store, rank, size, roll, limit))
        time.sleep(pause)
        pause = min(1.5 * pause, LAST_LOOK)


def _hellos(store: Store, size: int) -> list[_Hello] | None:
    """What each rank said last; None until all said something."""
    keys = [f"hello/{rank}" for rank in range(size)]
    return [_Hello.load(store.get(key)) for key in keys] if store.check(keys) else None


def _roster(store: Store, rank: int, hello: _Hello) -> Roll | None:
    """The newest roster, where it has this process."""
    if not store.check(["roster"]):
        return None
    attempt, texts = json.loads(store.get("roster"))
    hellos = [_Hello.load(text) for text in texts]
    if rank >= len(hellos) or hellos[rank].name != hello.name:
        return None
    return Roll(attempt, tuple(h.process for h in hellos))


def _missing(store: Store, rank: int, size: int, seen: Roll | None, limit: float) -> str:
    prefix = f"seen/{seen.attempt}/" if seen is not None else "hello/"
    missing = [str(r) for r in range(size) if not store.check([f"{prefix}{r}"])] or ["0"]
    ranks = f"rank{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
    return (
        f"rank {rank}: {ranks} of {size} did not come within {limit:g} s; see whether every host "
        "runs torchrun, and what it printed"
    )
