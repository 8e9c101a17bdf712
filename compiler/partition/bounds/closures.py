"""Every set of blocks that may stand before a boundary, where these are few: what each weighs.

Of loose blocks only their seconds are kept, as work that may be spread over all stages from where
what they need is to where they are needed. A layer has some hundreds of closures.
"""

from dataclasses import dataclass

import numpy as np

from pipecut.compiler.partition.bounds.amounts import Amounts, Quantities
from pipecut.compiler.partition.bounds.boundaries import Crossing, LooseWork, crossing, loose_work
from pipecut.compiler.partition.bounds.segments import Segments, needs_of, segments_of
from pipecut.compiler.partition.chain.prefix_sums import Bools, Floats, Ints
from pipecut.compiler.partition.problem import Problem, SharedParameter

# The most of all seconds that may be loose.
MOST_LOOSE = 0.25
# Of what several blocks use the heaviest are counted, where each weighs more than this part of all
# seconds or of a device's memory.
MOST_SHARED, LEAST_SHARED = 4, 1e-5
# Closures looked at together: so many that numpy is worth it, so few that the search stops soon.
TOGETHER = 512


@dataclass(frozen=True)
class Closures:
    """All closures, and what stands before a boundary with each of them.

    `starts`     parts[k] of the closures begins with number starts[k]
    `amounts`    of the kept blocks in each closure
    `crossing`   of the tensors across its boundary
    `loose_work` seconds of the loose blocks that may be done before each boundary
    `everything` amounts of all kept blocks
    `loose`      seconds of all loose blocks
    `several`    what several blocks use, and each stage has for itself
    `users`      for each of `several`, the number of kept users in each closure
    `all_users`  for each of `several`, the number of kept users
    """

    starts: Ints
    amounts: Amounts
    crossing: Crossing
    loose_work: LooseWork
    everything: Amounts
    loose: float
    several: tuple[SharedParameter, ...]
    users: list[Floats]
    all_users: Floats

    def part(self, number: int) -> slice:
        """The closures of one part."""
        return slice(self.starts[number], self.starts[number + 1])


def closures_of(problem: Problem) -> Closures | None:
    """The closures of a problem; None when there are too many, or too much is loose."""
    quantities = Quantities(tuple(problem.kinds))
    rows = quantities.of_blocks(problem)
    fastest = np.min([rows[quantities.seconds(kind)] for kind in quantities.kinds], axis=0)
    needs = needs_of(problem)
    loose = fastest[~needs.kept].sum()
    if loose > MOST_LOOSE * fastest.sum():
        return None
    segments = segments_of(needs)
    if segments is None:
        return None
    several = shared_by_several(problem)
    marks = [_marks(shared, needs.kept) for shared in several]
    sums = _sums([*rows, *marks], segments)
    count = quantities.count
    return Closures(
        _parts(segments),
        quantities.named(sums.of_closures[:count]),
        crossing(problem, segments),
        loose_work(problem, needs, segments, fastest),
        quantities.named([np.array([amount]) for amount in sums.of_all_blocks[:count]]),
        float(loose),
        several,
        sums.of_closures[count:],
        sums.of_all_blocks[count:],
    )


def _parts(segments: Segments) -> Ints:
    """Where parts of about TOGETHER closures begin and end; each ends with a segment."""
    ends_of_segments = np.cumsum([len(table) for table in segments.tables])
    # The last end of each run of so many closures.
    is_last = np.append(np.diff(ends_of_segments // TOGETHER) > 0, True)
    return np.array([0, *ends_of_segments[is_last]])


@dataclass(frozen=True)
class _Sums:
    """For each row of numbers, its sum over every closure and over all blocks."""

    of_closures: list[Floats]
    of_all_blocks: Floats


def _sums(rows: list[Floats], segments: Segments) -> _Sums:
    before = np.zeros(len(rows))
    columns: list[list[Floats]] = [[] for _ in rows]
    for blocks, table in zip(segments.blocks, segments.tables, strict=True):
        for column, row, so_far in zip(columns, rows, before, strict=True):
            column.append(so_far + table @ row[blocks])
        before += [row[blocks].sum() for row in rows]
    return _Sums([np.concatenate(parts) for parts in columns], before)


def shared_by_several(problem: Problem) -> tuple[SharedParameter, ...]:
    """What several blocks use, one for all with the same users; those that weigh most."""
    merged: dict[tuple[int, ...], SharedParameter] = {}
    for shared in problem.shared:
        first = merged.get(shared.users)
        merged[shared.users] = _together(first, shared, problem.kinds) if first else shared
    kind, device = problem.kinds[0], problem.stage_devices[0]
    all_seconds = sum(block.seconds[kind] for block in problem.blocks) or 1.0

    def weight(shared: SharedParameter) -> float:
        seconds = shared.seconds.get(kind, 0.0) / all_seconds
        return seconds + shared.bytes_with(device.in_flight) / max(device.capacity, 1)

    several = [
        shared
        for shared in merged.values()
        if len(shared.users) > 1 and weight(shared) > LEAST_SHARED
    ]
    return tuple(sorted(several, key=weight, reverse=True)[:MOST_SHARED])


def _together(first: SharedParameter, second: SharedParameter, kinds: list[str]) -> SharedParameter:
    """Two with the same users as one."""

    def added(before: dict[str, float], added_to: dict[str, float]) -> dict[str, float]:
        return {kind: before.get(kind, 0.0) + added_to.get(kind, 0.0) for kind in kinds}

    return SharedParameter(
        first.name,
        first.bytes + second.bytes,
        first.users,
        added(first.seconds, second.seconds),
        added(first.forward_seconds, second.forward_seconds),
        first.saved_bytes + second.saved_bytes,
    )


def _marks(shared: SharedParameter, kept: Bools) -> Floats:
    """1 for each of its users that is not loose."""
    row = np.zeros(len(kept))
    row[list(shared.users)] = 1.0
    return row * kept
