"""The ranks of one attempt find each other in a store that may have keys of earlier attempts.

torchrun keeps its store over restarts, and numbers restarts on each host by itself, so neither
tells attempts apart. Here each process takes part under a name that no other process has:

    every rank    hello/RANK = its name and facts            in every attempt
    rank 0        roster = {attempt: a new name, all names}  whenever a hello changed
    every rank    seen/ATTEMPT/RANK                          once the roster has its own name
    rank 0        go/ATTEMPT                                 once all have seen it

A process of an earlier attempt is in no later roster, and cannot have seen it.
"""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch._C._distributed_c10d import Store

from pipecut.errors import RunError

# Seconds between looks at the store: short at first, since most waits are.
FIRST_LOOK, LAST_LOOK = 0.005, 0.25


@dataclass(frozen=True)
class Roll:
    """All ranks of an attempt, and what each said of itself."""

    attempt: str
    facts: tuple[Mapping[str, Any], ...]


def call_roll(store: Store, rank: int, size: int, facts: Mapping[str, Any], limit: float) -> Roll:
    """Wait for every rank of this attempt. Raises RunError with the ranks that did not come."""
    end, pause = time.monotonic() + limit, FIRST_LOOK
    name = secrets.token_hex(8)
    store.set(f"hello/{rank}", json.dumps([name, facts]))
    roster: list[str] = []
    attempt = ""
    while True:
        if rank == 0:
            hellos = _hellos(store, size)
            if hellos is not None and [hello[0] for hello in hellos] != roster:
                roster, attempt = [hello[0] for hello in hellos], secrets.token_hex(8)
                store.set("roster", json.dumps([attempt, roster, [hello[1] for hello in hellos]]))
        seen = _roster(store, rank, name)
        if seen is not None:
            store.set(f"seen/{seen.attempt}/{rank}", "")
            keys = [f"seen/{seen.attempt}/{r}" for r in range(size)]
            if rank == 0 and seen.attempt == attempt and store.check(keys):
                store.set(f"go/{attempt}", "")
            if store.check([f"go/{seen.attempt}"]):
                return seen
        if time.monotonic() > end:
            raise RunError(_missing(store, rank, size, seen, limit))
        time.sleep(pause)
        pause = min(1.5 * pause, LAST_LOOK)


def _hellos(store: Store, size: int) -> list[Any] | None:
    keys = [f"hello/{rank}" for rank in range(size)]
    return [json.loads(store.get(key)) for key in keys] if store.check(keys) else None


def _roster(store: Store, rank: int, name: str) -> Roll | None:
    """The newest roster, where it has this process."""
    if not store.check(["roster"]):
        return None
    attempt, names, facts = json.loads(store.get("roster"))
    return Roll(attempt, tuple(facts)) if rank < len(names) and names[rank] == name else None


def _missing(store: Store, rank: int, size: int, seen: Roll | None, limit: float) -> str:
    prefix = f"seen/{seen.attempt}/" if seen is not None else "hello/"
    missing = [str(r) for r in range(size) if not store.check([f"{prefix}{r}"])] or ["0"]
    ranks = f"rank{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
    return (
        f"rank {rank}: {ranks} of {size} did not come within {limit:g} s; see whether every host "
        "runs torchrun, and what it printed"
    )


def hosts_of(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The host of each rank."""
    return [str(fact.get("host", "?")) for fact in facts]
