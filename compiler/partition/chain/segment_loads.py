"""The seconds of every segment j..i-1 of the order on a stage, relayed or direct."""

from typing import Protocol

import numpy as np

from pipecut.compiler.partition.chain.prefix_sums import (
    Bools,
    Floats,
    Tensors,
    duplicate_seconds,
    work_before,
)
from pipecut.compiler.partition.chain.transfer_table import transfer_table
from pipecut.compiler.partition.chain.windows import FeasibleStarts
from pipecut.compiler.partition.problem import Problem

# The segments that fit a stage, for each of `Problem.recompute_choices`.
Windows = tuple[FeasibleStarts, ...]


class SegmentLoads(Protocol):
    """What the chain asks of segments; a stage takes each segment in the cheapest way that fits.

    `windows` has the feasible starts of the stage for each recompute choice.
    """

    highest: float

    def load(self, stage: int, start: int, end: int, windows: Windows) -> float:
        """Seconds of one segment."""

    def extend(self, stage: int, reach: Bools, windows: Windows, target: float) -> Bools:
        """The ends within reach: some start in `reach` has a segment to it within `target`."""

    def start_of(self, stage: int, end: int, reach: Bools, windows: Windows) -> int:
        """The start in `reach` whose segment to this end is the quickest."""


class RelayedLoads:
    """load(j, i) = (work[i] + right[i]) - (work[j] - left[j]), as a difference of two arrays.

    `right[i]` are the seconds of the tensors across cut i, over the stage's link to the next;
    `left[j]` those across cut j, over the link before, and of what the stage computes once more.
    """

    def __init__(self, problem: Problem) -> None:
        choices = problem.recompute_choices
        self.kinds = [device.kind for device in problem.stage_devices]
        self.work = [
            {kind: work_before(problem, kind, choice) for kind in problem.kinds}
            for choice in choices
        ]
        duplicates = [
            {kind: duplicate_seconds(problem, kind, choice) for kind in problem.kinds}
            for choice in choices
        ]
        nothing = np.zeros(len(problem.blocks) + 1)
        tensors = Tensors.of(problem)
        crossing = [
            tensors.crossing_seconds(problem, stage) for stage in range(len(self.kinds) - 1)
        ]
        self.right = [*crossing, nothing]
        before = [nothing, *crossing]
        self.left = [
            [seconds[kind] + arriving for kind, arriving in zip(self.kinds, before, strict=True)]
            for seconds in duplicates
        ]
        longest = max(float(work[-1]) for by_kind in self.work for work in by_kind.values())
        started = max(float(row.max()) for by_kind in duplicates for row in by_kind.values())
        sent = max((float(seconds.max()) for seconds in crossing), default=0.0)
        self.highest = longest + started + 2 * sent

    def load(self, stage: int, start: int, end: int, windows: Windows) -> float:
        """Seconds of one segment."""
        choice = _quickest_choice(windows, start, end)
        work = self.work[choice][self.kinds[stage]]
        received, sent = self.left[choice][stage][start], self.right[stage][end]
        return float(work[end] - work[start] + received + sent)

    def extend(self, stage: int, reach: Bools, windows: Windows, target: float) -> Bools:
        """One pass per choice, with a running maximum over the starts within reach."""
        result = np.zeros_like(reach)
        for choice, window in enumerate(windows):
            best = window.maximum(self._before(choice, stage, reach))
            seconds = self.work[choice][self.kinds[stage]] + self.right[stage] - best
            result |= seconds <= target
        return result

    def start_of(self, stage: int, end: int, reach: Bools, windows: Windows) -> int:
        """The start in `reach` whose segment to this end is the quickest."""
        candidates = []
        for choice, window in enumerate(windows):
            before = np.where(window.starts(end), self._before(choice, stage, reach), -np.inf)
            start = int(np.argmax(before))
            work = self.work[choice][self.kinds[stage]]
            candidates.append((work[end] - before[start], start))
        return min(candidates)[1]

    def _before(self, choice: int, stage: int, reach: Bools) -> Floats:
        """work[j] - left[j] of each start within reach."""
        before = self.work[choice][self.kinds[stage]] - self.left[choice][stage]
        return np.where(reach, before, -np.inf)


class DirectLoads:
    """load(j, i) read from a table of all segments, one for each kind of device and link."""

    def __init__(self, problem: Problem) -> None:
        choices = problem.recompute_choices
        self.tables: list[dict[tuple[str, float, float], Floats]] = [{} for _ in choices]
        self.keys = [
            (device.kind, device.bandwidth, device.latency) for device in problem.stage_devices
        ]
        for stage, key in enumerate(self.keys):
            if key in self.tables[0]:
                continue
            transfers = transfer_table(problem, stage)
            kind = key[0]
            for table, choice in zip(self.tables, choices, strict=True):
                work = work_before(problem, kind, choice)
                once_more = duplicate_seconds(problem, kind, choice)
                table[key] = work[None, :] - work[:, None] + transfers + once_more[:, None]
        self.highest = max(
            float(np.triu(table).max()) for by_key in self.tables for table in by_key.values()
        )

    def load(self, stage: int, start: int, end: int, windows: Windows) -> float:
        """Seconds of one segment."""
        choice = _quickest_choice(windows, start, end)
        return float(self.tables[choice][self.keys[stage]][start, end])

    def extend(self, stage: int, reach: Bools, windows: Windows, target: float) -> Bools:
        """The ends within reach: some start in `reach` has a segment to it within `target`."""
        result = np.zeros_like(reach)
        for by_key, window in zip(self.tables, windows, strict=True):
            quick = by_key[self.keys[stage]] <= target
            result |= (reach[:, None] & window.all_starts & quick).any(axis=0)
        return result

    def start_of(self, stage: int, end: int, reach: Bools, windows: Windows) -> int:
        """The start in `reach` whose segment to this end is the quickest."""
        candidates = []
        for by_key, window in zip(self.tables, windows, strict=True):
            seconds = by_key[self.keys[stage]][:, end]
            column = np.where(reach & window.starts(end), seconds, np.inf)
            candidates.append((float(column.min()), int(np.argmin(column))))
        return min(candidates)[1]


def _quickest_choice(windows: Windows, start: int, end: int) -> int:
    """The first recompute choice with which a segment fits; choices stand quickest first."""
    fitting = (choice for choice, window in enumerate(windows) if window.starts(end)[start])
    return next(fitting, len(windows) - 1)
