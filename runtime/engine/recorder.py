"""What really happened in a step, action by action."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from pipecut.device.types import type_of
from pipecut.device.work import synchronize, timing_event
from pipecut.plan.actions import Action


@dataclass(frozen=True)
class Record:
    """When a rank did an action, or `waited` for what it needs.

    Seconds are of this machine's clock.
    """

    action: Action
    waited: bool
    start: float
    end: float


@dataclass(frozen=True)
class _Marked:
    """A record whose times are marks: events on the GPU's stream, or seconds of the clock."""

    action: Action
    waited: bool
    start: Any
    end: Any


# Steps whose records are kept: the first ones, which warm up, and the last ones.
FIRST, LAST = 3, 100


@dataclass
class Measured:
    """What a run measures on one rank: records by step, seconds of the median step, peak bytes."""

    steps: list[list[Record]] = field(default_factory=list)
    step_seconds: float = 0.0
    peak_bytes: int = 0

    def add(self, records: list[Record]) -> None:
        """Keep the records of one more step; those between the first and the last are dropped."""
        self.steps.append(records)
        if len(self.steps) > FIRST + LAST:
            del self.steps[FIRST]


class Recorder:
    """Marks are events on the GPU's stream, or the clock; they are read once, after the step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.queued = device, type_of(device).queued
        self.marks: list[_Marked] = []
        self.base: tuple[Any, float] = self.now(), time.perf_counter()

    def now(self) -> Any:
        """A mark of this moment."""
        if not self.queued:
            return time.perf_counter()
        event = timing_event(self.device)
        event.record()
        return event

    def add(self, action: Action, waited: bool, start: Any, end: Any) -> None:
        """Note what lies between two marks."""
        self.marks.append(_Marked(action, waited, start, end))

    def take(self) -> list[Record]:
        """Everything since the last time."""
        marks, self.marks = self.marks, []
        if not self.queued:
            return [Record(m.action, m.waited, m.start, m.end) for m in marks]
        synchronize(self.device)
        event, clock = self.base

        def seconds(mark: Any) -> float:
            return clock + float(event.elapsed_time(mark)) / 1e3

        return [Record(m.action, m.waited, seconds(m.start), seconds(m.end)) for m in marks]
