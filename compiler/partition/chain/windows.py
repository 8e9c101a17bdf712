"""Which segments of a topological order fit a stage's memory.

A segment j..i-1 needs fixed(j, i) + in_flight (saved(j, i) + received(j)) + transient(j, i) bytes; where it recomputes,
saved is counted once. But for what it receives that falls as j grows, so two pointers find for each end i the j from where
on every start fits. The few earlier starts that fit as well, because they receive little where those between receive much,
are kept as exceptions.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipecut.compiler.partition.problem import Problem, SharedParameter, StageDevice, TensorUse

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
# Exceptions further from the window than this are passed over.
FURTHEST = 400


@dataclass(frozen=True)
class FeasibleStarts:
    """`earliest[i]`: every start from it to i-1 fits. `extra[d, i]`: so does earliest[i] - 1 - d."""

    earliest: Ints
    extra: Bools

    def starts(self, end: int) -> Bools:
        """Which starts fit a segment with this end."""
        result = np.zeros(len(self.earliest), dtype=bool)
        first = int(self.earliest[end])
        result[first:end] = True
        further = first - 1 - np.flatnonzero(self.extra[:, end])
        result[further] = True
        return result

    @cached_property
    def all_starts(self) -> Bools:
        """`starts` of every end, index [start, end]."""
        return np.stack([self.starts(end) for end in range(len(self.earliest))], axis=1)

    def maximum(self, values: Floats) -> Floats:
        """The largest value of the starts that fit, for every end; -inf for none."""
        best = window_maximum(values, self.earliest)
        for distance, fits in enumerate(self.extra):
            ends = np.flatnonzero(fits)
            best[ends] = np.maximum(best[ends], values[self.earliest[ends] - 1 - distance])
        return best


def room_of_stages(problem: Problem, recompute: bool = False) -> list[FeasibleStarts]:
    """The room of each stage, when it recomputes or not; stages alike share one."""
    received = received_bytes(problem)
    known: dict[tuple[int, int, bool, int], FeasibleStarts] = {}
    result = []
    for stage, slot in enumerate(problem.stage_devices):
        key = slot.in_flight, slot.capacity, stage == 0, stage if problem.pins else 0
        if key not in known:
            told = _told_starts(problem, stage)
            arriving = np.zeros_like(received) if stage == 0 else received
            known[key] = _room(problem, slot, arriving, told, recompute)
        result.append(known[key])
    return result


def _told_starts(problem: Problem, stage: int) -> Ints:
    """The earliest start for each end that keeps what is pinned elsewhere out, and what is split apart."""
    result = np.zeros(len(problem.blocks) + 1, dtype=np.int64)
    apart = [(v, v) for v, s in problem.pins if s != stage] + list(problem.splits)
    for first, last in apart:
        result[last + 1 :] = np.maximum(result[last + 1 :], first + 1)
    return result


def received_bytes(problem: Problem) -> Floats:
    """Bytes a microbatch that a stage receives which begins at block j."""
    return over_cuts(problem, lambda tensor: tensor.forward_bytes)


def rows_of_blocks(problem: Problem, kinds: list[str]) -> list[Floats]:
    """Of every block with what it alone uses: seconds on each kind, forward seconds on each, saved and parameter bytes."""
    rows = [np.array([block.seconds[kind] for block in problem.blocks]) for kind in kinds]
    rows += [
        np.array([block.forward_seconds.get(kind, 0.0) for block in problem.blocks])
        for kind in kinds
    ]
    rows += [
        np.array([float(block.saved_bytes) for block in problem.blocks]),
        np.zeros(len(problem.blocks)),
    ]
    for shared in problem.shared:
        if len(shared.users) == 1:
            for row, amount in zip(rows, amounts_of(shared, kinds), strict=True):
                row[shared.users[0]] += amount
    return rows


def amounts_of(shared: SharedParameter, kinds: list[str]) -> list[float]:
    """As a row of `rows_of_blocks` has them."""
    seconds = [
        table.get(kind, 0.0) for table in (shared.seconds, shared.forward_seconds) for kind in kinds
    ]
    return [*seconds, float(shared.saved_bytes), float(shared.bytes)]


def over_cuts(problem: Problem, amount: Callable[[TensorUse], float]) -> Floats:
    """The sum of an amount over the tensors that cross a cut before block i, for every i."""
    change = np.zeros(len(problem.blocks) + 2)
    for tensor in problem.tensors:
        change[min(tensor.source, *tensor.consumers) + 1] += amount(tensor)
        change[max(tensor.source, *tensor.consumers) + 1] -= amount(tensor)
    result: Floats = np.cumsum(change)[: len(problem.blocks) + 1]
    return result


def _room(
    problem: Problem, slot: StageDevice, received: Floats, told: Ints, recompute: bool
) -> FeasibleStarts:
    saving = slot.saved_microbatches(recompute)
    earliest = np.maximum(_windows(problem, slot, received, saving), told)
    hopeful = (
        np.maximum(_windows(problem, slot, np.zeros_like(received), saving), told)
        if received.any()
        else earliest
    )
    furthest = min(int((earliest - hopeful).max(initial=0)), FURTHEST)
    count = len(problem.blocks)
    saved = np.concatenate([[0.0], np.cumsum([float(b.saved_bytes) for b in problem.blocks])])
    transient = window_maximum(
        np.array([float(b.transient_bytes) for b in problem.blocks] + [0.0]), hopeful
    )
    single = np.zeros(count)
    several = []
    for shared in problem.shared:
        if len(shared.users) == 1:
            single[shared.users[0]] += shared.bytes_with(saving)
        else:
            several.append((np.array(sorted(shared.users)), float(shared.bytes_with(saving))))
    fixed = np.concatenate([[0.0], np.cumsum(single)])
    extra = np.zeros((furthest, count + 1), dtype=bool)
    ends = np.arange(count + 1)
    for distance in range(furthest):
        start = earliest - 1 - distance
        inside = start >= hopeful
        at = np.maximum(start, 0)
        used = (
            fixed[ends]
            - fixed[at]
            + saving * (saved[ends] - saved[at])
            + slot.in_flight * received[at]
            + transient
        )
        for users, size in several:
            used += size * (np.searchsorted(users, at) < np.searchsorted(users, ends))
        extra[distance] = inside & (used <= slot.capacity)
    return FeasibleStarts(earliest, extra)


def _windows(problem: Problem, slot: StageDevice, received: Floats, saving: int) -> Ints:
    """Two pointers: the window grows at its end, and gives up blocks at its start while some start within it is too large."""
    count = len(problem.blocks)
    users = problem.shared_by_block()
    held = [0] * len(problem.shared)
    fixed, saved, start = 0, 0.0, 0
    peaks, arrivals = deque[int](), deque[int]()
    result = np.zeros(count + 1, dtype=np.int64)
    for end in range(count):
        for index in users[end]:
            fixed += problem.shared[index].bytes_with(saving) if held[index] == 0 else 0
            held[index] += 1
        saved += problem.blocks[end].saved_bytes
        # The first of each is the largest within the window.
        while (
            peaks
            and problem.blocks[peaks[-1]].transient_bytes <= problem.blocks[end].transient_bytes
        ):
            peaks.pop()
        peaks.append(end)
        while arrivals and received[arrivals[-1]] <= received[end]:
            arrivals.pop()
        arrivals.append(end)
        while start <= end:
            flying = saving * saved + slot.in_flight * received[arrivals[0]]
            if fixed + flying + problem.blocks[peaks[0]].transient_bytes <= slot.capacity:
                break
            for index in users[start]:
                held[index] -= 1
                fixed -= problem.shared[index].bytes_with(saving) if held[index] == 0 else 0
            saved -= problem.blocks[start].saved_bytes
            start += 1
            for largest in (peaks, arrivals):
                if largest and largest[0] < start:
                    largest.popleft()
        result[end + 1] = start
    return result


def window_maximum(values: Floats, earliest: Ints) -> Floats:
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
