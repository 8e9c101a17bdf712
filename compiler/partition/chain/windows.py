"""Which segments of a topological order fit a stage's memory.

A segment j..i-1 needs

    fixed(j, i) + in_flight (saved(j, i) + received(j)) + transient(j, i)   bytes;

where it recomputes, saved is counted once. But for what it receives, that falls as j grows: so
halving finds for each end i the start j from which on every start fits. The few earlier starts that
fit as well, because they receive little where those between receive much, are exceptions.
"""

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
from pipecut.compiler.partition.problem import Problem, SharedParameter, StageDevice

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
        best = self._ranges.maximum(values)
        for ends, starts in self._exceptions:
            best[ends] = np.maximum(best[ends], values[starts])
        return best

    @cached_property
    def _ranges(self) -> "Ranges":
        """The starts from `earliest` on, of every end."""
        return Ranges(self.earliest, np.arange(len(self.earliest)))

    @cached_property
    def _exceptions(self) -> list[tuple[Ints, Ints]]:
        """For each distance at which some fit: the ends that have one, and the starts."""
        ends = [np.flatnonzero(fits) for fits in self.extra]
        return [
            (fitting, self.earliest[fitting] - 1 - distance)
            for distance, fitting in enumerate(ends)
            if len(fitting)
        ]


def feasible_starts(problem: Problem, recompute: bool = False) -> list[FeasibleStarts]:
    """The segments that fit each stage, when it recomputes or not; equal stages share one value."""
    blocks = _Blocks(problem)
    of_device: dict[tuple[int, int, bool, int], FeasibleStarts] = {}
    result = []
    for stage, device in enumerate(problem.stage_devices):
        key = device.in_flight, device.capacity, stage == 0, stage if problem.pins else 0
        if key not in of_device:
            segments = _Segments(blocks, device, stage > 0, recompute)
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


class _Blocks:
    """The bytes of an order's blocks as columns, whatever the stage."""

    def __init__(self, problem: Problem) -> None:
        blocks = problem.blocks
        self.count = len(blocks)
        self.received = received_bytes(problem)
        self.most_received = RangeMaximum(self.received)
        self.saved = sums_before([float(block.saved_bytes) for block in blocks])
        self.most_transient = RangeMaximum(
            np.array([*(float(block.transient_bytes) for block in blocks), 0.0])
        )
        alone, alone_saved = np.zeros(self.count), np.zeros(self.count)
        self.shared: list[SharedParameter] = []
        self.users_before: list[Ints] = []
        for shared in problem.shared:
            if len(shared.users) == 1:
                alone[shared.users[0]] += shared.bytes
                alone_saved[shared.users[0]] += shared.saved_bytes
            else:
                # How many of its users stand before each cut.
                users = np.array(sorted(shared.users))
                self.shared.append(shared)
                self.users_before.append(np.searchsorted(users, np.arange(self.count + 1)))
        self.alone, self.alone_saved = sums_before(alone), sums_before(alone_saved)


class _Segments:
    """The bytes of segments on one stage; `receives` where it begins behind another one."""

    def __init__(
        self, blocks: _Blocks, device: StageDevice, receives: bool, recompute: bool
    ) -> None:
        self.blocks, self.device = blocks, device
        self.receives = receives and bool(blocks.received.any())
        microbatches = device.saved_microbatches(recompute)
        self.held = blocks.alone + microbatches * (blocks.alone_saved + blocks.saved)
        self.shared = [
            (before, float(shared.bytes_with(microbatches)))
            for before, shared in zip(blocks.users_before, blocks.shared, strict=True)
        ]

    def feasible_starts(self, constrained: Ints) -> FeasibleStarts:
        """Every start that fits, for every end; none before `constrained`."""
        # No start before these fits, even if it received nothing.
        hopeful = np.maximum(self._windows(receives=False), constrained)
        if not self.receives:
            return FeasibleStarts(hopeful, self._exceptions(hopeful, hopeful))
        earliest = np.maximum(self._windows(receives=True), constrained)
        return FeasibleStarts(earliest, self._exceptions(earliest, hopeful))

    def _exceptions(self, earliest: Ints, hopeful: Ints) -> Bools:
        """`FeasibleStarts.extra`: the starts between `hopeful` and `earliest` that fit."""
        furthest = min(int((earliest - hopeful).max(initial=0)), FURTHEST)
        ends = np.arange(self.blocks.count + 1)
        transient = self.blocks.most_transient.within(hopeful, ends)
        extra = np.zeros((furthest, len(ends)), dtype=bool)
        for distance in range(furthest):
            start = earliest - 1 - distance
            at = np.maximum(start, 0)
            used = self._lasting(at, ends) + transient
            if self.receives:
                used += self.device.in_flight * self.blocks.received[at]
            extra[distance] = (start >= hopeful) & (used <= self.device.capacity)
        return extra

    def _lasting(self, starts: Ints, ends: Ints) -> Floats:
        """Bytes of segments without what they receive, and between their operators."""
        result = self.held[ends] - self.held[starts]
        for before, size in self.shared:
            result += size * (before[starts] < before[ends])
        return result

    def _windows(self, receives: bool) -> Ints:
        """For every end, the start from which on all starts fit.

        A later start needs no more, so that each end's is found by halving where it may be.
        """
        blocks, ends = self.blocks, np.arange(self.blocks.count + 1)
        low, high = np.zeros_like(ends), ends.copy()
        while (low < high).any():
            middle = (low + high) // 2
            used = self._lasting(middle, ends) + blocks.most_transient.within(middle, ends)
            if receives:
                most = np.maximum(blocks.most_received.within(middle, ends), 0.0)
                used += self.device.in_flight * most
            # A segment of no block needs nothing.
            fits = (used <= self.device.capacity) | (middle == ends)
            high = np.where(fits, middle, high)
            low = np.where(fits, low, np.minimum(middle + 1, high))
        return high


class RangeMaximum:
    """The largest value within any range of a column, or any of up to `longest` values."""

    def __init__(self, values: Floats, longest: int | None = None) -> None:
        longest, count = len(values) if longest is None else longest, len(values)
        # A sparse table: levels[k, j] is the largest of values[j : j + 2**k].
        self.levels = np.full((max(1, longest.bit_length()), count), -np.inf)
        self.levels[0] = values
        for level in range(1, len(self.levels)):
            half = 1 << (level - 1)
            previous = self.levels[level - 1]
            np.maximum(previous[:-half], previous[half:], out=self.levels[level, : count - half])

    def within(self, starts: Ints, ends: Ints) -> Floats:
        """The largest of values[start:end], for each pair; -inf for none."""
        return self.at(Places(starts, ends, self.levels.shape[1]))

    def at(self, places: "Places") -> Floats:
        """The largest of the ranges that places stand for; -inf for those of no value."""
        flat = self.levels.ravel()
        largest: Floats = np.maximum(flat[places.first], flat[places.last])
        largest[places.empty] = -np.inf
        return largest


class Places:
    """Where a `RangeMaximum` of `count` values has the ranges start..end-1.

    Two ranges of 2**level values cover one of up to twice as many.
    """

    def __init__(self, starts: Ints, ends: Ints, count: int) -> None:
        self.empty = np.flatnonzero(ends <= starts)
        lengths = np.maximum(ends - starts, 1)
        # Exact: a float64 holds every length.
        level = np.frexp(lengths)[1].astype(np.int64) - 1
        self.first = level * count + np.minimum(starts, count - 1)
        self.last = level * count + np.maximum(ends - (1 << level), 0)


class Ranges:
    """Fixed ranges start..end-1, of which the largest of many columns are asked."""

    def __init__(self, starts: Ints, ends: Ints) -> None:
        self.longest = int((ends - starts).max(initial=0))
        self.from_first = not starts.any() and bool((ends == np.arange(len(ends))).all())
        self.places = Places(starts, ends, len(ends))

    def maximum(self, values: Floats) -> Floats:
        """The largest value of each range; -inf for none."""
        if self.from_first:
            return np.concatenate([[-np.inf], np.maximum.accumulate(values)[:-1]])
        return RangeMaximum(values, self.longest).at(self.places)
