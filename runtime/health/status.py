"""What each rank is doing, in a file that outlives the rank.

Whoever started the ranks reads it when a rank ends, or when all stand still.
"""

import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from pipecut.plan.actions import (
    KINDS,
    Action,
    Reduce,
    action_of,
    kind_of,
    microbatch_of,
    stage_of,
)

# The folder of the files, set by whoever starts the ranks.
FOLDER = "PIPECUT_STATUS"
# pid, state, step, kind of action, stage, microbatch, when it began on the machine's clock.
LAYOUT = struct.Struct("<qqqqqqd")
# In place of an action's kind where there is no action.
NO_ACTION = -1


class State(IntEnum):
    """What a rank is doing. WAITING is for another rank; STARTING and SAVING have own limits."""

    STARTING, BETWEEN, COMPUTING, WAITING, ENDED, SAVING, COMPARING = range(7)


@dataclass(frozen=True)
class RankStatus:
    """What a rank's process does, and since when on the machine's clock.

    `step` counts from 1; there is an action only within a step.
    """

    pid: int
    state: State
    step: int
    action: Action | None
    since: float

    def __str__(self) -> str:
        if self.state is State.STARTING:
            return "while it was starting"
        if self.state is State.ENDED:
            return "after its last step"
        if self.state is State.SAVING:
            return f"while saving a checkpoint after step {self.step - 1}"
        if self.state is State.BETWEEN and self.step == 1:
            return "before step 1"
        if self.state is State.BETWEEN:
            return f"between steps {self.step - 1} and {self.step}"
        if self.state is State.COMPARING:
            return f"before step {self.step}, waiting for the batches of other ranks"
        if self.action is None:
            return f"in step {self.step}"
        if self.action == Reduce():
            return f"in step {self.step}, at its end, waiting for other ranks"
        waiting = "waiting for what it needs for " if self.state is State.WAITING else ""
        where = f"stage {stage_of(self.action)}, microbatch {microbatch_of(self.action)}"
        return f"in step {self.step}, {waiting}action '{self.action}' ({where})"


class Status:
    """This rank's status file; without a folder it is only in memory."""

    def __init__(self, rank: int) -> None:
        folder = os.environ.get(FOLDER)
        self.memory: mmap.mmap | bytearray = bytearray(LAYOUT.size)
        if folder is not None:
            with _file(Path(folder), rank).open("w+b") as file:
                file.truncate(LAYOUT.size)
                self.memory = mmap.mmap(file.fileno(), LAYOUT.size)
        self.pid, self.step = os.getpid(), 1
        self.note(State.STARTING)

    def note(self, state: State, action: Action | None = None) -> None:
        """Record what begins now."""
        self.state, self.action, self.since = state, action, time.monotonic()
        kind, stage, microbatch = (NO_ACTION, 0, 0) if action is None else _numbers(action)
        LAYOUT.pack_into(
            self.memory, 0, self.pid, state, self.step, kind, stage, microbatch, self.since
        )

    def current(self) -> RankStatus:
        """What this rank does now."""
        return RankStatus(self.pid, self.state, self.step, self.action, time.monotonic())

    @contextmanager
    def during(self, state: State) -> Iterator[None]:
        """Record a state for the block; afterwards the previous state begins anew."""
        previous = self.state, self.action
        self.note(state)
        try:
            yield
        finally:
            self.note(*previous)


def read_status(folder: Path, rank: int) -> RankStatus | None:
    """What a rank does or did last; None before it recorded anything."""
    try:
        content = _file(folder, rank).read_bytes()
        pid, state, step, kind, stage, microbatch, since = LAYOUT.unpack(content)
    except (OSError, struct.error):
        return None
    if not pid:
        return None
    action = None if kind == NO_ACTION else action_of(KINDS[kind], stage, microbatch)
    return RankStatus(pid, State(state), step, action, since)


def _numbers(action: Action) -> tuple[int, int, int]:
    """An action's code, stage and microbatch; the latter are 0 where it has none."""
    return KINDS.index(kind_of(action)), stage_of(action) or 0, microbatch_of(action) or 0


def _file(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank}"
