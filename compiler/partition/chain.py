"""The best cut of one topological order into a chain of stages, exact for that order.

A set of reachable ends is kept for a bottleneck T and stage after stage:

    reach[s][i]  blocks 0..i-1 fit on the first s stages, each with a load of at most T
    reach[s+1][i] = some j < i has reach[s][j], load[s](j, i) <= T and bytes[s](j, i) <= capacity

and T is found by bisection. Where a tensor is relayed the load is separable,

    load[s](j, i) = (work[i] + right[s][i]) - (work[j] - left[s][j])

so that one pass with a running maximum of work[j] - left[j] over the reachable j decides a stage: O(stages x blocks) for a T.
With direct transfers the load is read from a table of all segments.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from pipecut.compiler.partition.problem import Problem, Slot, transfer_seconds

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
# All segments of more blocks than this would take more than half a gigabyte.
LARGEST_TABLE = 6000
PRECISION = 1e-9
# The part of all cuts, those with the fewest bytes, that is tried alone where memory binds.
CHEAP = 0.25


def chain_cuts(problem: Problem) -> list[int] | None:
    """Stage of each block, or None when none was found that fits.

    Exact where memory does not bind. Where it does, a segment is given up too early when another that begins within it would
    receive much; so the search is made again over cuts with few bytes alone, where that hardly matters, and the better is taken.
    """
    count, stages = len(problem.blocks), len(problem.slots)
    if count < stages or (problem.comm == "direct" and count > LARGEST_TABLE):
        return None
    loads = _Direct(problem) if problem.comm == "direct" else _Relayed(problem)
    received = _received(problem)
    everywhere = np.ones(count + 1, dtype=bool)
    cheap = received <= np.quantile(received, CHEAP)
    cheap[[0, count]] = True
    found = []
    for allowed in (everywhere, cheap):
        earliest = _earliest_starts(problem, np.where(allowed, received, 0.0))
        ends = _best_ends(loads, earliest, allowed, count, stages)
        if ends is not None:
            found.append((max(loads.one(s, j, i) for s, (j, i) in enumerate(_segments(ends))), ends))
        if not any(window.any() for window in earliest):
            break
    if not found:
        return None
    result = [0] * count
    for stage, (start, end) in enumerate(_segments(min(found)[1])):
        result[start:end] = [stage] * (end - start)
    return result


def _segments(ends: list[int]) -> list[tuple[int, int]]:
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _best_ends(
    loads: "_Relayed | _Direct", earliest: list[NDArray[np.int64]], allowed: Bools, count: int, stages: int
) -> list[int] | None:
    """Bisect the bottleneck."""
    best: list[int] | None = None
    low, high = 0.0, loads.highest
    while best is None or high - low > PRECISION * high:
        # The first try asks only whether any bottleneck fits the memory.
        target = (low + high) / 2 if best is not None else high
        ends = _ends_within(loads, earliest, allowed, count, stages, target)
        if ends is None and best is None:
            return None
        if ends is None:
            low = target
            continue
        best = ends
        high = min(target, max(loads.one(s, j, i) for s, (j, i) in enumerate(_segments(ends))))
        if high == 0.0:
            break
    return best


def _ends_within(
    loads: "_Relayed | _Direct", earliest: list[NDArray[np.int64]], allowed: Bools, count: int, stages: int, target: float
) -> list[int] | None:
    """End of each stage, or None."""
    reach = np.zeros(count + 1, dtype=bool)
    reach[0] = True
    history = [reach]
    for stage in range(stages):
        reach = loads.extend(stage, reach, earliest[stage], target) & allowed
        if not reach.any():
            return None
        history.append(reach)
    if not reach[count]:
        return None
    ends = [count]
    for stage in range(stages - 1, 0, -1):
        ends.append(loads.start_of(stage, ends[-1], history[stage], earliest[stage], target))
    return ends[::-1]


class _Relayed:
    def __init__(self, problem: Problem) -> None:
        stages = range(len(problem.slots))
        self.work = {
            kind: np.concatenate([[0.0], np.cumsum([b.seconds[kind] for b in problem.blocks])])
            for kind in {slot.kind for slot in problem.slots}
        }
        self.kinds = [slot.kind for slot in problem.slots]
        over = [_over_cut(problem, boundary) for boundary in range(len(problem.slots) - 1)]
        nothing = np.zeros(len(problem.blocks) + 1)
        self.left = [over[s - 1] if s else nothing for s in stages]
        self.right = [over[s] if s < len(over) else nothing for s in stages]
        self.highest = max(float(w[-1]) for w in self.work.values()) + 2 * max((float(o.max()) for o in over), default=0.0)

    def one(self, stage: int, start: int, end: int) -> float:
        work = self.work[self.kinds[stage]]
        return float(work[end] - work[start] + self.left[stage][start] + self.right[stage][end])

    def _before(self, stage: int, reach: Bools) -> Floats:
        return np.where(reach, self.work[self.kinds[stage]] - self.left[stage], -np.inf)

    def extend(self, stage: int, reach: Bools, earliest: NDArray[np.int64], target: float) -> Bools:
        best = _window_maximum(self._before(stage, reach), earliest)
        return np.asarray(self.work[self.kinds[stage]] + self.right[stage] - best <= target, dtype=np.bool_)

    def start_of(self, stage: int, end: int, reach: Bools, earliest: NDArray[np.int64], target: float) -> int:
        begin = int(earliest[end])
        return begin + int(np.argmax(self._before(stage, reach)[begin:end]))


class _Direct:
    """load(j, i) of every segment, as sums of rectangles over (j, i)."""

    def __init__(self, problem: Problem) -> None:
        count = len(problem.blocks)
        self.kinds = [slot.kind for slot in problem.slots]
        self.tables: dict[tuple[str, float, float], Floats] = {}
        self.keys = [(slot.kind, slot.bandwidth, slot.latency) for slot in problem.slots]
        for slot, key in enumerate(self.keys):
            if key not in self.tables:
                work = np.concatenate([[0.0], np.cumsum([b.seconds[key[0]] for b in problem.blocks])])
                self.tables[key] = work[None, :] - work[:, None] + _segment_transfers(problem, slot, count)
        self.highest = max(float(np.triu(table).max()) for table in self.tables.values())

    def one(self, stage: int, start: int, end: int) -> float:
        return float(self.tables[self.keys[stage]][start, end])

    def _allowed(self, stage: int, reach: Bools, earliest: NDArray[np.int64], target: float) -> Bools:
        count = len(reach)
        start = np.arange(count)[:, None]
        within = (start >= earliest[None, :]) & (start < np.arange(count)[None, :])
        result: Bools = reach[:, None] & within & (self.tables[self.keys[stage]] <= target)
        return result

    def extend(self, stage: int, reach: Bools, earliest: NDArray[np.int64], target: float) -> Bools:
        return np.asarray(self._allowed(stage, reach, earliest, target).any(axis=0), dtype=np.bool_)

    def start_of(self, stage: int, end: int, reach: Bools, earliest: NDArray[np.int64], target: float) -> int:
        column = self._allowed(stage, reach, earliest, target)[:, end]
        return int(np.argmin(np.where(column, self.tables[self.keys[stage]][:, end], np.inf)))


def _over_cut(problem: Problem, boundary: int) -> Floats:
    """Seconds of all tensors over a cut before block i, for every i."""
    change = np.zeros(len(problem.blocks) + 2)
    for crossing in problem.crossings:
        seconds = transfer_seconds(problem, crossing, boundary)
        change[min(crossing.source, *crossing.consumers) + 1] += seconds
        change[max(crossing.source, *crossing.consumers) + 1] -= seconds
    # What is left of a sum that should be zero would forbid nothing, but it looks like a cost.
    return np.maximum(np.cumsum(change)[: len(problem.blocks) + 1], 0.0)


def _segment_transfers(problem: Problem, slot: int, count: int) -> Floats:
    """Transfer seconds of blocks j..i-1 alone on a stage, index [j, i]."""
    change = np.zeros((count + 2, count + 2))

    def add(first_start: int, last_start: int, first_end: int, last_end: int, seconds: float) -> None:
        if first_start <= last_start and first_end <= last_end:
            change[first_start, first_end] += seconds
            change[last_start + 1, first_end] -= seconds
            change[first_start, last_end + 1] -= seconds
            change[last_start + 1, last_end + 1] += seconds

    for crossing in problem.crossings:
        seconds, source = transfer_seconds(problem, crossing, slot), crossing.source
        first, last = min(crossing.consumers), max(crossing.consumers)
        # The source inside, and some consumer outside.
        add(0, source, source + 1, count, seconds)
        add(0, min(source, first), max(source, last) + 1, count, -seconds)
        # Some consumer inside, the source outside: a segment is in no gap between consumers, or in one and counts not.
        inside = sorted({*crossing.consumers})
        add(0, count, 0, count, seconds)
        for before, after in zip([-1, *inside], [*inside, count], strict=True):
            add(before + 1, count, 0, after, -seconds)
        add(0, source, source + 1, count, -seconds)
        for before, after in zip([-1, *inside], [*inside, count], strict=True):
            if before < source < after:
                add(before + 1, source, source + 1, after, seconds)
    table: Floats = np.cumsum(np.cumsum(change, axis=0), axis=1)[: count + 1, : count + 1]
    return np.where(np.abs(table) < 1e-12 * max(1.0, float(np.abs(table).max())), 0.0, table)


def _window_maximum(values: Floats, earliest: NDArray[np.int64]) -> Floats:
    """The largest of values[earliest[i]:i], for every i; -inf for none. A sparse table where windows do not all start at 0."""
    count = len(values)
    if not earliest.any():
        return np.concatenate([[-np.inf], np.maximum.accumulate(values)[:-1]])
    levels = [values]
    while 2 ** len(levels) <= count:
        half = 2 ** (len(levels) - 1)
        last = levels[-1]
        levels.append(np.maximum(last[: len(last) - half], last[half:]))
    length = np.arange(count) - earliest
    result = np.full(count, -np.inf)
    for level, table in enumerate(levels):
        here = np.flatnonzero((length >= 2**level) & (length < 2 ** (level + 1)))
        result[here] = np.maximum(table[earliest[here]], table[here - 2**level])
    return result


def _received(problem: Problem) -> Floats:
    """Bytes a microbatch that a stage receives which begins at block j."""
    change = np.zeros(len(problem.blocks) + 2)
    for crossing in problem.crossings:
        change[min(crossing.source, *crossing.consumers) + 1] += crossing.forward_bytes
        change[max(crossing.source, *crossing.consumers) + 1] -= crossing.forward_bytes
    result: Floats = np.cumsum(change)[: len(problem.blocks) + 1]
    return result


def _earliest_starts(problem: Problem, received: Floats) -> list[NDArray[np.int64]]:
    """For each stage and end i a j such that blocks j..i-1, and all that begin later, fit its memory."""
    known: dict[tuple[int, int, bool], NDArray[np.int64]] = {}
    result = []
    for stage, slot in enumerate(problem.slots):
        key = slot.in_flight, slot.capacity, stage == 0
        if key not in known:
            known[key] = _windows(problem, slot, np.zeros_like(received) if stage == 0 else received)
        result.append(known[key])
    return result


def _windows(problem: Problem, slot: Slot, received: Floats) -> NDArray[np.int64]:
    """Two pointers: the window grows at its end, and gives up blocks at its start while it is too large."""
    count = len(problem.blocks)
    users: list[list[int]] = [[] for _ in problem.blocks]
    for index, shared in enumerate(problem.shared):
        for user in shared.users:
            users[user].append(index)
    held = [0] * len(problem.shared)
    fixed, kept, start = 0, 0.0, 0
    peaks, arrivals = deque[int](), deque[int]()
    result = np.zeros(count + 1, dtype=np.int64)
    for end in range(count):
        for index in users[end]:
            fixed += problem.shared[index].bytes if held[index] == 0 else 0
            held[index] += 1
        kept += problem.blocks[end].saved_bytes
        # The first of each is the largest within the window.
        while peaks and problem.blocks[peaks[-1]].transient_bytes <= problem.blocks[end].transient_bytes:
            peaks.pop()
        peaks.append(end)
        while arrivals and received[arrivals[-1]] <= received[end]:
            arrivals.pop()
        arrivals.append(end)
        while start <= end:
            flying = slot.in_flight * (kept + received[arrivals[0]])
            if fixed + flying + problem.blocks[peaks[0]].transient_bytes <= slot.capacity:
                break
            for index in users[start]:
                held[index] -= 1
                fixed -= problem.shared[index].bytes if held[index] == 0 else 0
            kept -= problem.blocks[start].saved_bytes
            start += 1
            for largest in (peaks, arrivals):
                if largest and largest[0] < start:
                    largest.popleft()
        result[end + 1] = start
    return result
