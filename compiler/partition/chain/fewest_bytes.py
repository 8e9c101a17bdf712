"""The cut of an order into a chain that moves the fewest bytes within a bottleneck.

least[s+1][i] = crossing[i] + min of least[s][j] over the j < i whose segment j..i-1 fits stage s
                within the bottleneck
"""

from dataclasses import dataclass

import numpy as np

from pipecut.compiler.partition.chain.prefix_sums import (
    Bools,
    Floats,
    Ints,
    Tensors,
    duplicate_seconds,
    work_before,
)
from pipecut.compiler.partition.chain.windows import FeasibleStarts, feasible_starts
from pipecut.compiler.partition.contract import contract, expand
from pipecut.compiler.partition.problem import Problem, Stages

# With more segments than this, weighing them all takes too long.
MOST_SEGMENTS = 400_000_000


def fewest_bytes(problem: Problem, stages: Stages, target: float) -> Stages | None:
    """The best cut within `target` seconds of the order that these stages make.

    None where transfers are direct, a device has several stages, the order is too long or no cut is
    that fast.
    """
    if problem.comm != "relay" or problem.devices:
        return None
    order = sorted(range(len(stages)), key=lambda block: (stages[block], block))
    members = [[block] for block in order]
    chain = problem if order == list(range(len(order))) else contract(problem, members)
    width = _longest_segment(chain, target)
    if width * len(order) * len(chain.stage_devices) > MOST_SEGMENTS:
        return None
    starts = _Search(chain, target, width).starts()
    if starts is None:
        return None
    cut, end = [0] * len(order), len(order)
    for stage in reversed(range(len(chain.stage_devices))):
        start = int(starts[stage][end])
        cut[start:end] = [stage] * (end - start)
        end = start
    return expand(cut, members, len(order))


def _longest_segment(chain: Problem, target: float) -> int:
    """The most blocks whose work alone is within the target on any kind of device."""
    lengths = []
    for kind in {device.kind: None for device in chain.stage_devices}:
        work = work_before(chain, kind, False)
        earliest = np.searchsorted(work, work - target)
        lengths.append(int((np.arange(len(work)) - earliest).max()))
    return max(lengths)


@dataclass(frozen=True)
class _Search:
    """Segments of up to `width` blocks, each within `target` seconds."""

    chain: Problem
    target: float
    width: int

    def starts(self) -> list[Ints] | None:
        """For each stage, its best start for every end; None where the last end is out of reach."""
        chain = self.chain
        choices, last = chain.recompute_choices, len(chain.stage_devices) - 1
        of_choices = [feasible_starts(chain, choice) for choice in choices]
        tensors, count = Tensors.of(chain), len(chain.blocks) + 1
        crossing = tensors.across(tensors.both_ways_bytes)
        nothing = np.zeros(count)
        seconds = [
            nothing,
            *(tensors.crossing_seconds(chain, stage) for stage in range(last)),
            nothing,
        ]
        least: Floats = np.where(np.arange(count) == 0, 0.0, np.inf)
        starts = []
        work = _work_on_kinds(chain)
        for stage, (low, high) in enumerate(self._bands()):
            kind = chain.stage_devices[stage].kind
            segments = _Segments(work[kind], seconds[stage], seconds[stage + 1])
            windows = [of_stages[stage] for of_stages in of_choices]
            ends = np.arange(low, high + 1)
            # A row for each end, its starts from the latest on.
            rows = ends[:, None] - 1 - np.arange(self.width)[None, :]
            is_allowed = segments.allowed(self.target, ends, rows, windows) & (rows >= 0)
            bytes_ = np.where(is_allowed, least[np.maximum(rows, 0)], np.inf)
            column, at = np.argmin(bytes_, axis=1), np.arange(len(ends))
            least, best = np.full(count, np.inf), np.zeros(count, dtype=np.int64)
            least[ends] = bytes_[at, column] + (crossing[ends] if stage < last else 0.0)
            best[ends] = rows[at, column]
            starts.append(best)
        return starts if np.isfinite(least[-1]) else None

    def _bands(self) -> list[tuple[int, int]]:
        """Of each stage, the first and the last end that it can have.

        No later one is within reach of the stages up to it, and behind an earlier one the stages
        after it cannot take all that is left, by the work of the blocks alone.
        """
        works = {
            kind: work_before(self.chain, kind, self.chain.recompute_choices[0])
            for kind in self.chain.kinds
        }
        by_stage = [works[device.kind] for device in self.chain.stage_devices]
        # More than any rounding error.
        target, count = self.target * (1 + 1e-6), len(self.chain.blocks)
        highest, end = [], 0
        for work in by_stage:
            end = int(np.searchsorted(work, work[end] + target, side="right")) - 1
            highest.append(end)
        lowest, end = [count], count
        for work in reversed(by_stage[1:]):
            end = int(np.searchsorted(work, work[end] - target, side="left"))
            lowest.append(end)
        return list(zip(reversed(lowest), highest, strict=True))


@dataclass(frozen=True)
class _Work:
    """Seconds on a kind of device of the blocks before each cut, and of what is computed again."""

    before: Floats
    again: Floats

    @classmethod
    def of(cls, chain: Problem, kind: str, recompute: bool) -> "_Work":
        return cls(work_before(chain, kind, recompute), duplicate_seconds(chain, kind, recompute))


def _work_on_kinds(chain: Problem) -> dict[str, list[_Work]]:
    """By kind of device, the work of each recompute choice."""
    return {
        kind: [_Work.of(chain, kind, choice) for choice in chain.recompute_choices]
        for kind in chain.kinds
    }


@dataclass(frozen=True)
class _Segments:
    """The segments of a stage; `received` and `sent` are the seconds across each cut.

    `work` is that of each recompute choice on its device.
    """

    work: list[_Work]
    received: Floats
    sent: Floats

    def allowed(
        self, target: float, ends: Ints, starts: Ints, windows: list[FeasibleStarts]
    ) -> Bools:
        """Whether the segment to each end from each of its starts fits and is fast enough."""
        is_allowed = np.zeros(starts.shape, dtype=bool)
        for window, work in zip(windows, self.work, strict=True):
            before = work.before - self.received - work.again
            seconds = (work.before + self.sent)[ends, None] - before[np.maximum(starts, 0)]
            is_allowed |= (seconds <= target) & (starts >= window.earliest[ends, None])
        return is_allowed
