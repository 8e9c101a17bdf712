"""The best cut of one topological order into a chain of stages, exact for that order.

A set of reachable ends is kept for a bottleneck T and stage after stage:

    reach[s][i]  blocks 0..i-1 fit on the first s stages, each with a load of at most T
    reach[s+1][i] = some j < i has reach[s][j], load[s](j, i) <= T and bytes[s](j, i) <= capacity

and T is found by bisection. Where a tensor is relayed the load is separable,

    load[s](j, i) = (work[i] + right[s][i]) - (work[j] - left[s][j])

so that one pass with a running maximum of work[j] - left[j] over the reachable j decides a stage: O(stages x blocks) for a T.
What each stage makes for itself is work of its first user, and of the start of every stage between that and its last user: a
stage between two users is charged for it too.
With direct transfers the load is read from a table of all segments. Where stages may recompute, a stage has two ways to take a
segment, each with its own seconds and room.
"""

import numpy as np

from pipecut.compiler.partition.chain.windows import (
    Bools,
    FeasibleStarts,
    Floats,
    over_cuts,
    room_of_stages,
)
from pipecut.compiler.partition.load import transfer_seconds
from pipecut.compiler.partition.problem import Problem

# All segments of more blocks than this would take more than half a gigabyte.
LARGEST_TABLE = 6000
PRECISION = 1e-9
# The room of a stage for each of its ways.
Rooms = tuple[FeasibleStarts, ...]


def chain_cuts(problem: Problem, precision: float = PRECISION) -> list[int] | None:
    """Stage of each block, the bottleneck within `precision` of the order's best; None when no chain of this order fits."""
    count, stages = len(problem.blocks), len(problem.stage_devices)
    if count < stages or (problem.comm == "direct" and count > LARGEST_TABLE):
        return None
    loads = _Direct(problem) if problem.comm == "direct" else _Relayed(problem)
    rooms = [room_of_stages(problem, recompute) for recompute in problem.recompute_choices]
    ends = _best_ends(loads, list(zip(*rooms, strict=True)), count, stages, precision)
    if ends is None:
        return None
    result = [0] * count
    for stage, (start, end) in enumerate(_segments(ends)):
        result[start:end] = [stage] * (end - start)
    return result


def _segments(ends: list[int]) -> list[tuple[int, int]]:
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _best_ends(
    loads: "_Relayed | _Direct", rooms: list[Rooms], count: int, stages: int, precision: float
) -> list[int] | None:
    """Bisect the bottleneck."""
    best: list[int] | None = None
    low, high = 0.0, loads.highest
    while best is None or high - low > precision * high:
        # The first try asks only whether any bottleneck fits the memory.
        target = (low + high) / 2 if best is not None else high
        ends = _ends_within(loads, rooms, count, stages, target)
        if ends is None and best is None:
            return None
        if ends is None:
            low = target
            continue
        best = ends
        high = min(
            target, max(loads.one(s, j, i, rooms[s]) for s, (j, i) in enumerate(_segments(ends)))
        )
        if high == 0.0:
            break
    return best


def _ends_within(
    loads: "_Relayed | _Direct", rooms: list[Rooms], count: int, stages: int, target: float
) -> list[int] | None:
    """End of each stage, or None."""
    reach = np.zeros(count + 1, dtype=bool)
    reach[0] = True
    history = [reach]
    for stage in range(stages):
        reach = loads.extend(stage, reach, rooms[stage], target)
        if not reach.any():
            return None
        history.append(reach)
    if not reach[count]:
        return None
    ends = [count]
    for stage in range(stages - 1, 0, -1):
        ends.append(loads.start_of(stage, ends[-1], history[stage], rooms[stage], target))
    return ends[::-1]


class _Relayed:
    def __init__(self, problem: Problem) -> None:
        stages = range(len(problem.stage_devices))
        self.kinds = [slot.kind for slot in problem.stage_devices]
        self.work = [
            {kind: work_before(problem, kind, way) for kind in set(self.kinds)}
            for way in problem.recompute_choices
        ]
        over = [
            seconds_over(problem, boundary) for boundary in range(len(problem.stage_devices) - 1)
        ]
        nothing = np.zeros(len(problem.blocks) + 1)
        again = [
            {kind: made_again(problem, kind, way) for kind in set(self.kinds)}
            for way in problem.recompute_choices
        ]
        # Of each way of a stage, what it spends before its first block.
        self.left = [
            [made[self.kinds[s]] + (over[s - 1] if s else nothing) for s in stages]
            for made in again
        ]
        self.right = [over[s] if s < len(over) else nothing for s in stages]
        longest = max(float(w[-1]) for way in self.work for w in way.values())
        begun = max(float(made.max()) for way in again for made in way.values())
        self.highest = longest + begun + 2 * max((float(o.max()) for o in over), default=0.0)

    def one(self, stage: int, start: int, end: int, rooms: Rooms) -> float:
        way = _way(rooms, start, end)
        work = self.work[way][self.kinds[stage]]
        return float(
            work[end] - work[start] + self.left[way][stage][start] + self.right[stage][end]
        )

    def _before(self, way: int, stage: int, reach: Bools) -> Floats:
        return np.where(reach, self.work[way][self.kinds[stage]] - self.left[way][stage], -np.inf)

    def extend(self, stage: int, reach: Bools, rooms: Rooms, target: float) -> Bools:
        result = np.zeros_like(reach)
        for way, room in enumerate(rooms):
            best = room.maximum(self._before(way, stage, reach))
            result |= self.work[way][self.kinds[stage]] + self.right[stage] - best <= target
        return result

    def start_of(self, stage: int, end: int, reach: Bools, rooms: Rooms, target: float) -> int:
        candidates = []
        for way, room in enumerate(rooms):
            before = np.where(room.starts(end), self._before(way, stage, reach), -np.inf)
            start = int(np.argmax(before))
            candidates.append((self.work[way][self.kinds[stage]][end] - before[start], start))
        return min(candidates)[1]


class _Direct:
    """load(j, i) of every segment, as sums of rectangles over (j, i)."""

    def __init__(self, problem: Problem) -> None:
        count = len(problem.blocks)
        self.tables: list[dict[tuple[str, float, float], Floats]] = [
            {} for _ in problem.recompute_choices
        ]
        self.keys = [(slot.kind, slot.bandwidth, slot.latency) for slot in problem.stage_devices]
        for slot, key in enumerate(self.keys):
            if key in self.tables[0]:
                continue
            transfers = _segment_transfers(problem, slot, count)
            for table, way in zip(self.tables, problem.recompute_choices, strict=True):
                work, again = work_before(problem, key[0], way), made_again(problem, key[0], way)
                table[key] = work[None, :] - work[:, None] + transfers + again[:, None]
        self.highest = max(
            float(np.triu(table).max()) for tables in self.tables for table in tables.values()
        )

    def one(self, stage: int, start: int, end: int, rooms: Rooms) -> float:
        return float(self.tables[_way(rooms, start, end)][self.keys[stage]][start, end])

    def extend(self, stage: int, reach: Bools, rooms: Rooms, target: float) -> Bools:
        result = np.zeros_like(reach)
        for tables, room in zip(self.tables, rooms, strict=True):
            result |= (reach[:, None] & room.all_starts & (tables[self.keys[stage]] <= target)).any(
                axis=0
            )
        return result

    def start_of(self, stage: int, end: int, reach: Bools, rooms: Rooms, target: float) -> int:
        candidates = []
        for tables, room in zip(self.tables, rooms, strict=True):
            column = np.where(reach & room.starts(end), tables[self.keys[stage]][:, end], np.inf)
            candidates.append((float(column.min()), int(np.argmin(column))))
        return min(candidates)[1]


def work_before(problem: Problem, kind: str, recompute: bool) -> Floats:
    """Seconds on a kind of device of all blocks before block i, for every i, and of what they are the first to need."""
    seconds = [
        b.seconds[kind] + (b.forward_seconds.get(kind, 0.0) if recompute else 0.0)
        for b in problem.blocks
    ]
    for shared in problem.shared:
        if shared.seconds:
            seconds[min(shared.users)] += shared.seconds_on(kind, recompute)
    return np.concatenate([[0.0], np.cumsum(seconds)])


def made_again(problem: Problem, kind: str, recompute: bool) -> Floats:
    """Seconds to make what blocks before and after a cut before block i need, for every i."""
    change = np.zeros(len(problem.blocks) + 2)
    for shared in problem.shared:
        if shared.seconds and len(shared.users) > 1:
            change[min(shared.users) + 1] += shared.seconds_on(kind, recompute)
            change[max(shared.users) + 1] -= shared.seconds_on(kind, recompute)
    # What is left of a sum that should be zero would look like a cost.
    result: Floats = np.maximum(np.cumsum(change)[: len(problem.blocks) + 1], 0.0)
    return result


def _way(rooms: Rooms, start: int, end: int) -> int:
    """The first way that has room for a segment; the quickest, as the ways stand."""
    return next((way for way, room in enumerate(rooms) if room.starts(end)[start]), len(rooms) - 1)


def seconds_over(problem: Problem, boundary: int) -> Floats:
    """Seconds of all tensors over a cut before block i, for every i."""
    # What is left of a sum that should be zero would forbid nothing, but it looks like a cost.
    return np.maximum(
        over_cuts(problem, lambda tensor: transfer_seconds(problem, tensor, boundary)), 0.0
    )


def _segment_transfers(problem: Problem, slot: int, count: int) -> Floats:
    """Transfer seconds of blocks j..i-1 alone on a stage, index [j, i]."""
    change = np.zeros((count + 2, count + 2))

    def add(
        first_start: int, last_start: int, first_end: int, last_end: int, seconds: float
    ) -> None:
        if first_start <= last_start and first_end <= last_end:
            change[first_start, first_end] += seconds
            change[last_start + 1, first_end] -= seconds
            change[first_start, last_end + 1] -= seconds
            change[last_start + 1, last_end + 1] += seconds

    for tensor in problem.tensors:
        seconds, source = transfer_seconds(problem, tensor, slot), tensor.source
        first, last = min(tensor.consumers), max(tensor.consumers)
        # The source inside, and some consumer outside.
        add(0, source, source + 1, count, seconds)
        add(0, min(source, first), max(source, last) + 1, count, -seconds)
        # Some consumer inside, the source outside: a segment is in no gap between consumers, or in one and counts not.
        inside = sorted({*tensor.consumers})
        add(0, count, 0, count, seconds)
        for before, after in zip([-1, *inside], [*inside, count], strict=True):
            add(before + 1, count, 0, after, -seconds)
        add(0, source, source + 1, count, -seconds)
        for before, after in zip([-1, *inside], [*inside, count], strict=True):
            if before < source < after:
                add(before + 1, source, source + 1, after, seconds)
    table: Floats = np.cumsum(np.cumsum(change, axis=0), axis=1)[: count + 1, : count + 1]
    return np.where(np.abs(table) < 1e-12 * max(1.0, float(np.abs(table).max())), 0.0, table)
