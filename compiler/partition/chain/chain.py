"""The best cut of one topological order into a chain of stages, exact for that order.

For a bottleneck T, the reachable ends are found stage after stage:

    reach[s][i]  blocks 0..i-1 fit on the first s stages, each with a load of at most T
    reach[s+1][i] = some j < i has reach[s][j], load[s](j, i) <= T and bytes[s](j, i) <= capacity

and T is found by bisection. Where tensors are relayed the load is separable,

    load[s](j, i) = (work[i] + right[s][i]) - (work[j] - left[s][j])

so that one pass with a running maximum of work[j] - left[j] over the reachable j decides a stage:
O(stages x blocks) for a T. What stages compute for themselves is work of its first user, and of the
start of every stage between that and its last user: a stage between two users is charged for it
too. With direct transfers the load is read from a table of all segments. Where stages may
recompute, a stage has two ways to take a segment, each with its own seconds and bytes.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipecut.compiler.partition.chain.segment_loads import (
    DirectLoads,
    RelayedLoads,
    SegmentLoads,
    Windows,
)
from pipecut.compiler.partition.chain.windows import feasible_starts
from pipecut.compiler.partition.problem import Problem, Stages

# All segments of more blocks than this would take more than half a gigabyte.
LARGEST_TABLE = 6000
PRECISION = 1e-9
# Relative to the bottleneck, the interval in which it is asked whether any cut is better.
NEAR = 0.01


def chain_cuts(problem: Problem, precision: float = PRECISION) -> Stages | None:
    """Stage of each block, the bottleneck within `precision` of the order's best.

    None when no chain of this order fits.
    """
    count, stages = len(problem.blocks), len(problem.stage_devices)
    if count < stages or (problem.comm == "direct" and count > LARGEST_TABLE):
        return None
    loads = DirectLoads(problem) if problem.comm == "direct" else RelayedLoads(problem)
    of_choices = [feasible_starts(problem, choice) for choice in problem.recompute_choices]
    search = _Search(loads, list(zip(*of_choices, strict=True)), count)
    stage_ends = search.best_ends(precision)
    if stage_ends is None:
        return None
    result = [0] * count
    for stage, (start, end) in enumerate(pairwise([0, *stage_ends])):
        result[start:end] = [stage] * (end - start)
    return result


@dataclass(frozen=True)
class _Search:
    """`windows` has the segments that fit each stage; `count` is the number of blocks."""

    loads: SegmentLoads
    windows: list[Windows]
    count: int

    def best_ends(self, precision: float) -> list[int] | None:
        """End of each stage at the least bottleneck, by bisection.

        Loads are few numbers: the least one is mostly found long before the interval is small. So
        once it is near, each cut is asked whether any is better at all.
        """
        # The first try asks only whether any bottleneck fits the memory.
        best = self._ends_within(self.loads.highest)
        if best is None:
            return None
        low, high = 0.0, min(self.loads.highest, self._bottleneck(best))
        asked = False
        while high - low > precision * high:
            below = not asked and high - low < NEAR * high
            target = high * (1 - precision) if below else (low + high) / 2
            stage_ends = self._ends_within(target)
            asked = asked or below
            if stage_ends is None:
                low = target
            else:
                best, high, asked = stage_ends, min(target, self._bottleneck(stage_ends)), False
        return best

    def _bottleneck(self, stage_ends: list[int]) -> float:
        segments = pairwise([0, *stage_ends])
        return max(
            self.loads.load(stage, start, end, self.windows[stage])
            for stage, (start, end) in enumerate(segments)
        )

    def _ends_within(self, target: float) -> list[int] | None:
        """End of each stage with no load above `target`; None when there are none."""
        reach = np.zeros(self.count + 1, dtype=bool)
        reach[0] = True
        history = [reach]
        for stage, windows in enumerate(self.windows):
            reach = self.loads.extend(stage, reach, windows, target)
            if not reach.any():
                return None
            history.append(reach)
        if not reach[self.count]:
            return None
        # Back from the last end, each stage's start is the end of the stage before.
        stage_ends = [self.count]
        for stage in range(len(self.windows) - 1, 0, -1):
            stage_ends.append(
                self.loads.start_of(stage, stage_ends[-1], history[stage], self.windows[stage])
            )
        return stage_ends[::-1]
