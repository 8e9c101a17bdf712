"""Where the closures of a graph are few, and all of them.

A closure is a set of blocks that holds all that its members need. Where a model is layer after
layer, each block that all others come before or after ends a segment, and a closure is all segments
up to one of them and a closure of only the next. Blocks beside whole layers, as a decoder's
projections of the encoder's result are, would make closures countless: these are loose.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipecut.compiler.partition.chain.prefix_sums import Bools, Ints
from pipecut.compiler.partition.problem import Problem

# With more closures than this, in a segment or in all, a bound is not worth its time.
MOST_OF_A_SEGMENT, MOST = 20_000, 400_000
# A block is loose when there are more blocks than this between what it needs and what needs it.
BESIDE = 100


@dataclass(frozen=True)
class Needs:
    """Who each block needs and who needs it, past the loose blocks; `kept[v]`: v is not loose."""

    before: list[set[int]]
    after: list[set[int]]
    kept: Bools


@dataclass(frozen=True)
class Segments:
    """The kept blocks of each segment, and its closures: a row each of `tables[k]`."""

    blocks: list[Ints]
    tables: list[Bools]


def needs_of(problem: Problem) -> Needs:
    """The needs of a problem's blocks; taking out a loose one may make others loose."""
    count = len(problem.blocks)
    before: list[set[int]] = [set() for _ in range(count)]
    after: list[set[int]] = [set() for _ in range(count)]
    for u, v in problem.edges:
        before[v].add(u)
        after[u].add(v)
    kept = np.ones(count, dtype=bool)
    changed = True
    while changed:
        changed = False
        for block in map(int, np.flatnonzero(kept)):
            around = min(after[block], default=count) - max(before[block], default=-1)
            if around > BESIDE and 0 < block < count - 1:
                kept[block], changed = False, True
                _take_out(block, before, after)
    return Needs(before, after, kept)


def _take_out(block: int, before: list[set[int]], after: list[set[int]]) -> None:
    """Let what needs a block need what it needs."""
    for source in before[block]:
        after[source].discard(block)
        after[source] |= after[block]
    for user in after[block]:
        before[user].discard(block)
        before[user] |= before[block]


def segments_of(needs: Needs) -> Segments | None:
    """The segments and their closures; None when there are too many."""
    blocks = _cut_into_segments(needs)
    tables = _closures_of_segments(needs, blocks)
    if tables is None:
        return None
    if not needs.kept.all():
        # A last stage may have only loose blocks.
        tables[-1] = np.vstack([tables[-1], np.ones((1, len(blocks[-1])), dtype=bool)])
    return Segments(blocks, tables)


def _cut_into_segments(needs: Needs) -> list[Ints]:
    """The kept blocks, cut after each that all others of them come before or after.

    Block i comes before all later ones exactly when each of these needs one that is not earlier
    than i, and after all earlier ones when each of these is needed by one that is not later. Blocks
    stand in a topological order.
    """
    blocks, count = np.flatnonzero(needs.kept), len(needs.kept)
    nearest_before = np.array([max(needs.before[v], default=-1) for v in blocks])
    nearest_after = np.array([min(needs.after[v], default=count) for v in blocks])
    later = np.append(np.minimum.accumulate(nearest_before[::-1])[::-1][1:], count)
    earlier = np.insert(np.maximum.accumulate(nearest_after)[:-1], 0, -1)
    cuts = np.flatnonzero((later >= blocks) & (earlier <= blocks))
    return [part for part in np.split(blocks, cuts + 1) if len(part)]


def _closures_of_segments(needs: Needs, segments: list[Ints]) -> list[Bools] | None:
    """The closures of each segment; layers alike share them."""
    of_shape: dict[tuple[tuple[int, ...], ...], Bools | None] = {}
    tables, total = [], 0
    for segment in segments:
        column = {int(block): at for at, block in enumerate(segment)}
        shape = tuple(
            tuple(sorted(column[u] for u in needs.before[v] if u in column)) for v in segment
        )
        if shape not in of_shape:
            of_shape[shape] = closures_within(shape)
        table = of_shape[shape]
        if table is None:
            return None
        total += len(table)
        if total > MOST:
            return None
        tables.append(table)
    return tables


def closures_within(needs: Sequence[tuple[int, ...]]) -> Bools | None:
    """A row for each closure of a segment but the whole, which the next segment begins with.

    `needs[v]` has what block v needs, by column. None when there are too many.
    """
    size = len(needs)
    # A set of blocks is the bits of an integer.
    required = [sum(1 << source for source in sources) for sources in needs]
    reached, frontier = {0}, [0]
    while frontier:
        following = []
        for closure in frontier:
            for block in range(size):
                if closure >> block & 1 or required[block] & closure != required[block]:
                    continue
                larger = closure | 1 << block
                if larger not in reached:
                    reached.add(larger)
                    following.append(larger)
        if len(reached) > MOST_OF_A_SEGMENT:
            return None
        frontier = following
    reached.discard((1 << size) - 1)
    rows = [[bool(closure >> block & 1) for block in range(size)] for closure in sorted(reached)]
    return np.array(rows, dtype=bool).reshape(len(reached), size)
