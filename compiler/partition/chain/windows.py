"""Which segments of a topological order fit a stage's memory.

A segment j..i-1 needs

    fixed(j, i) + in_flight (saved(j, i) + received(j)) + transient(j, i)   bytes;

where it recomputes, saved is counted once. But for what it receives, that falls as j grows: so two
pointers find for each end i the start j from which on every start fits. The few earlier starts
that fit as well, because they receive little where those between receive much, are exceptions.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipecut.compiler.partition.chain.prefix_sums import (
    Bools,
    Floats,
    Ints,
    received_bytes,
    sums_before,
)
from pipecut.compiler.partition.problem import Problem, StageDevice

# Exceptions further before the window than this are not looked for.
FURTHEST = 400


@dataclass(frozen=True)
class FeasibleStarts:
    """Every start from `earliest[i]` to i-1 fits; `extra[d, i]`: so does earliest[i] - 1 - d."""

    earliest: Ints
    extra: Bools

    def starts(self, end: int) -> Bools:
        """Which starts fit a segment with this end."""
        result = np.zeros(len(self.earliest), dtype=bool)
        first = int(self.earliest[end])
        result[first:end] = True
        result[first - 1 - np.flatnonzero(self.extra[:, end])] = True
        return result

    @cached_property
    def all_starts(self) -> Bools:
        """`starts` of every end, index [start, end]."""
        return np.stack([self.starts(end) for end in range(len(self.earliest))], axis=1)

    def maximum(self, values: Floats) -> Floats:
        """The largest value of the starts that fit, for every end; -inf for none."""
        best = window_maximum(values, self.earliest)
        for distance, fits in enumerate(self.extra):
            positions = np.flatnonzero(fits)
            best[positions] = np.maximum(
                best[positions], values[self.earliest[positions] - 1 - distance]
            )
        return best


def feasible_starts(problem: Problem, recompute: bool = False) -> list[FeasibleStarts]:
    """The segments that fit each stage, when it recomputes or not; equal stages share one value."""
    received = received_bytes(problem)
    of_device: dict[tuple[int, int, bool, int], FeasibleStarts] = {}
    result = []
    for stage, device in enumerate(problem.stage_devices):
        key = device.in_flight, device.capacity, stage == 0, stage if problem.pins else 0
        if key not in of_device:
            arriving = np.zeros_like(received) if stage == 0 else received
            segments = _Segments(problem, device, arriving, recompute)
            of_device[key] = segments.feasible_starts(_constrained_starts(problem, stage))
        result.append(of_device[key])
    return result


def _constrained_starts(problem: Problem, stage: int) -> Ints:
    """The earliest start for each end that obeys pins and splits.

    It keeps out what is pinned to another stage, and the first block of a split whose last is in.
    """
    result = np.zeros(len(problem.blocks) + 1, dtype=np.int64)
    elsewhere = [(block, block) for block, pinned in problem.pins if pinned != stage]
    for first, last in [*elsewhere, *problem.splits]:
        result[last + 1 :] = np.maximum(result[last + 1 :], first + 1)
    return result


class _Segments:
    """The bytes of segments on one stage; it receives `received[j]` if it begins at block j."""

    def __init__(
        self, problem: Problem, device: StageDevice, received: Floats, recompute: bool
    ) -> None:
        self.problem, self.device, self.received = problem, device, received
        self.saved_microbatches = device.saved_microbatches(recompute)
        self.shared_bytes = [
            shared.bytes_with(self.saved_microbatches) for shared in problem.shared
        ]

    def feasible_starts(self, constrained: Ints) -> FeasibleStarts:
        """Every start that fits, for every end; none before `constrained`."""
        earliest = np.maximum(self._windows(self.received), constrained)
        # No start before these fits, even if it received nothing.
        hopeful = earliest
        if self.received.any():
            hopeful = np.maximum(self._windows(np.zeros_like(self.received)), constrained)
        return FeasibleStarts(earliest, self._exceptions(earliest, hopeful))

    def _exceptions(self, earliest: Ints, hopeful: Ints) -> Bools:
        """`FeasibleStarts.extra`: the starts between `hopeful` and `earliest` that fit."""
        blocks = self.problem.blocks
        furthest = min(int((earliest - hopeful).max(initial=0)), FURTHEST)
        saved = sums_before([float(block.saved_bytes) for block in blocks])
        transients = np.array([*(float(block.transient_bytes) for block in blocks), 0.0])
        transient = window_maximum(transients, hopeful)
        fixed, shared_by_several = self._fixed_bytes()
        extra = np.zeros((furthest, len(blocks) + 1), dtype=bool)
        positions = np.arange(len(blocks) + 1)
        for distance in range(furthest):
            start = earliest - 1 - distance
            at = np.maximum(start, 0)
            used = (
                fixed[positions]
                - fixed[at]
                + self.saved_microbatches * (saved[positions] - saved[at])
                + self.device.in_flight * self.received[at]
                + transient
            )
            for users, size in shared_by_several:
                used += size * (np.searchsorted(users, at) < np.searchsorted(users, positions))
            extra[distance] = (start >= hopeful) & (used <= self.device.capacity)
        return extra

    def _fixed_bytes(self) -> tuple[Floats, list[tuple[Ints, float]]]:
        """Bytes before each cut that only one block needs; users and bytes of what more need."""
        alone = [0.0] * len(self.problem.blocks)
        shared_by_several = []
        for shared, size in zip(self.problem.shared, self.shared_bytes, strict=True):
            if len(shared.users) == 1:
                alone[shared.users[0]] += size
            else:
                shared_by_several.append((np.array(sorted(shared.users)), float(size)))
        return sums_before(alone), shared_by_several

    def _windows(self, received: Floats) -> Ints:
        """For every end, the start from which on all starts fit.

        Two pointers: the window grows at its end, and gives up blocks at its start while some start
        within it is too large.
        """
        blocks, capacity = self.problem.blocks, self.device.capacity
        shared_by_block = self.problem.shared_by_block()
        users_inside = [0] * len(self.problem.shared)
        fixed, saved, start = 0, 0.0, 0
        transients = _WindowMaximum([block.transient_bytes for block in blocks])
        arrivals = _WindowMaximum(received)
        result = np.zeros(len(blocks) + 1, dtype=np.int64)
        for end, block in enumerate(blocks):
            for index in shared_by_block[end]:
                fixed += self.shared_bytes[index] if users_inside[index] == 0 else 0
                users_inside[index] += 1
            saved += block.saved_bytes
            transients.append(end)
            arrivals.append(end)
            while start <= end:
                activations = (
                    self.saved_microbatches * saved + self.device.in_flight * arrivals.largest
                )
                if fixed + activations + transients.largest <= capacity:
                    break
                for index in shared_by_block[start]:
                    users_inside[index] -= 1
                    fixed -= self.shared_bytes[index] if users_inside[index] == 0 else 0
                saved -= blocks[start].saved_bytes
                start += 1
                transients.begin_at(start)
                arrivals.begin_at(start)
            result[end + 1] = start
        return result


class _WindowMaximum:
    """The largest value within a window that grows at its end and shrinks at its start.

    Positions are kept whose values fall: none of them is behind a larger one.
    """

    def __init__(self, values: Sequence[float] | Floats) -> None:
        self.values = values
        self.falling = deque[int]()

    @property
    def largest(self) -> float:
        """The largest value in the window, which must not be empty."""
        return self.values[self.falling[0]]

    def append(self, position: int) -> None:
        """Let the window end after a position."""
        value = self.values[position]
        while self.falling and self.values[self.falling[-1]] <= value:
            self.falling.pop()
        self.falling.append(position)

    def begin_at(self, position: int) -> None:
        """Let the window begin at a position."""
        if self.falling and self.falling[0] < position:
            self.falling.popleft()


def window_maximum(values: Floats, earliest: Ints) -> Floats:
    """The largest of values[earliest[i]:i], for every i; -inf for none."""
    count = len(values)
    if not earliest.any():
        return np.concatenate([[-np.inf], np.maximum.accumulate(values)[:-1]])
    # A sparse table: levels[k][j] is the largest of values[j : j + 2**k].
    levels = [values]
    while 2 ** len(levels) <= count:
        half = 2 ** (len(levels) - 1)
        previous = levels[-1]
        levels.append(np.maximum(previous[: len(previous) - half], previous[half:]))
    length = np.arange(count) - earliest
    result = np.full(count, -np.inf)
    for level, table in enumerate(levels):
        # Two windows of 2**level cover one of up to twice as many.
        at = np.flatnonzero((length >= 2**level) & (length < 2 ** (level + 1)))
        result[at] = np.maximum(table[earliest[at]], table[at - 2**level])
    return result
