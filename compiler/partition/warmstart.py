"""A good first answer: dynamic programming over one topological order.

best[k][i] = least bottleneck of the first i blocks on the first k stages; the last of them takes blocks j..i:

    best[k][i] = min over j of max(best[k-1][j], load of blocks j..i on stage k with the tensors over cuts j and i)
"""

import numpy as np

from pipecut.compiler.partition.problem import Problem, boundary_seconds


def chain_cuts(problem: Problem, capacities: list[float] | None = None) -> list[int] | None:
    """Stage of each block, or None when no chain of this order fits. `capacities` replaces the slots' bytes."""
    count, stages = len(problem.blocks), len(problem.slots)
    if count < stages:
        return None
    limits = capacities or [float(slot.capacity) for slot in problem.slots]
    across_bytes = _across(problem)
    best = np.full(count + 1, np.inf)
    best[0] = 0.0
    choice = np.zeros((stages, count + 1), dtype=np.int64)
    for stage, slot in enumerate(problem.slots):
        seconds = np.concatenate([[0.0], np.cumsum([b.seconds[slot.kind] for b in problem.blocks])])
        left = _across_seconds(problem, stage - 1)
        right = _across_seconds(problem, stage)
        following = np.full(count + 1, np.inf)
        usage = _Usage(problem, stage, across_bytes)
        for end in range(stage + 1, count - (stages - stage - 1) + 1):
            begin = np.arange(stage, end)
            load = seconds[end] - seconds[begin] + left[begin] + right[end]
            fits = usage.bytes_from(end)[stage:end] <= limits[stage]
            value = np.where(fits, np.maximum(best[begin], load), np.inf)
            pick = int(np.argmin(value))
            following[end], choice[stage, end] = value[pick], begin[pick]
        best = following
    if not np.isfinite(best[count]):
        return None
    result, stop = [0] * count, count
    for stage in range(stages - 1, -1, -1):
        cut = int(choice[stage, stop])
        result[cut:stop] = [stage] * (stop - cut)
        stop = cut
    return result


def _ends(problem: Problem) -> list[tuple[int, int]]:
    return [(c.source, max(c.consumers)) for c in problem.crossings]


def _across(problem: Problem) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    change = np.zeros(len(problem.blocks) + 2)
    for crossing, (first, last) in zip(problem.crossings, _ends(problem), strict=True):
        change[first + 1] += crossing.forward_bytes
        change[last + 1] -= crossing.forward_bytes
    return np.cumsum(change)[: len(problem.blocks) + 1]


def _across_seconds(problem: Problem, boundary: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Seconds of all tensors over a cut before block i, for every i."""
    change = np.zeros(len(problem.blocks) + 2)
    if 0 <= boundary < len(problem.slots) - 1:
        for crossing, (first, last) in zip(problem.crossings, _ends(problem), strict=True):
            seconds = boundary_seconds(problem, crossing, boundary)
            change[first + 1] += seconds
            change[last + 1] -= seconds
    return np.cumsum(change)[: len(problem.blocks) + 1]


class _Usage:
    """Bytes of a stage that holds blocks j..i, for all j at once."""

    def __init__(self, problem: Problem, stage: int, across: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> None:
        self.in_flight = problem.slots[stage].in_flight
        self.across = across if stage else np.zeros_like(across)
        self.saved = np.concatenate([[0.0], np.cumsum([b.saved_bytes for b in problem.blocks])])
        self.transient = np.array([float(b.transient_bytes) for b in problem.blocks])
        self.users: dict[int, list[tuple[int, float]]] = {}
        for shared in problem.shared:
            previous = -1
            for user in sorted(shared.users):
                # A user adds the parameter to every segment that begins after the user before it.
                self.users.setdefault(user, []).append((previous, float(shared.bytes)))
                previous = user
        self.fixed = np.zeros(len(problem.blocks))
        self.peak = np.zeros(len(problem.blocks))
        self.done = 0

    def bytes_from(self, end: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """Index j holds the bytes of blocks j..end-1. Must be called with growing `end`."""
        for block in range(self.done, end):
            for previous, size in self.users.get(block, []):
                self.fixed[previous + 1 : block + 1] += size
            self.peak[: block + 1] = np.maximum(self.peak[: block + 1], self.transient[block])
        self.done = max(self.done, end)
        kept = self.saved[end] - self.saved[:end] + self.across[:end]
        total: np.ndarray[tuple[int], np.dtype[np.float64]] = self.fixed[:end] + self.in_flight * kept + self.peak[:end]
        return total
