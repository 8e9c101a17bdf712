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
    crossing_amounts,
    crossing_seconds,
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
    chain = contract(problem, members)
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
        choices, last = self.chain.recompute_choices, len(self.chain.stage_devices) - 1
        of_choices = [feasible_starts(self.chain, choice) for choice in choices]
        crossing = crossing_amounts(self.chain, lambda tensor: tensor.both_ways_bytes)
        least: Floats = np.where(np.arange(len(self.chain.blocks) + 1) == 0, 0.0, np.inf)
        starts = []
        for stage in range(last + 1):
            windows = [of_stages[stage] for of_stages in of_choices]
            bytes_before, best = self._extend(stage, least, windows)
            least = bytes_before + (crossing if stage < last else 0.0)
            starts.append(best)
        return starts if np.isfinite(least[-1]) else None

    def _extend(
        self, stage: int, least: Floats, windows: list[FeasibleStarts]
    ) -> tuple[Floats, Ints]:
        """The fewest bytes before each end of a stage, and the start with which they are."""
        positions = np.arange(len(least))
        # A row for each end, its starts from the latest on.
        starts = positions[:, None] - 1 - np.arange(self.width)[None, :]
        is_allowed = self._allowed(stage, starts, windows) & (starts >= 0)
        bytes_ = np.where(is_allowed, least[np.maximum(starts, 0)], np.inf)
        column = np.argmin(bytes_, axis=1)
        return bytes_[positions, column], starts[positions, column]

    def _allowed(self, stage: int, starts: Ints, windows: list[FeasibleStarts]) -> Bools:
        """Whether the segment to each end from each of its starts fits and is fast enough."""
        chain, last = self.chain, len(self.chain.stage_devices) - 1
        nothing, kind = np.zeros(len(starts)), chain.stage_devices[stage].kind
        received = crossing_seconds(chain, stage - 1) if stage else nothing
        sent = crossing_seconds(chain, stage) if stage < last else nothing
        is_allowed = np.zeros(starts.shape, dtype=bool)
        for window, choice in zip(windows, chain.recompute_choices, strict=True):
            work = work_before(chain, kind, choice)
            before = work - received - duplicate_seconds(chain, kind, choice)
            seconds = work[:, None] + sent[:, None] - before[np.maximum(starts, 0)]
            is_allowed |= (seconds <= self.target) & (starts >= window.earliest[:, None])
        return is_allowed
