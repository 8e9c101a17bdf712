"""Every set of blocks that may stand before a boundary, where these are few.

Such a set is a closure: it holds all that its members need. Where a model is layer after layer, each block that all others
come before or after ends a segment, and a closure is all segments up to one of them and a closure of the next alone. A layer
has some hundreds. Blocks that stand beside whole layers, as a decoder's projections of the encoder's result do, would
make them countless: they are left out as loose, and only their seconds are kept, as work that may be spread over all stages
from where what they need is to where they are needed.
"""

from dataclasses import dataclass

import numpy as np

from pipecut.compiler.partition.chain.windows import Bools, Floats, Ints, rows_of_blocks
from pipecut.compiler.partition.problem import Problem, SharedParameter, StageDevice, TensorUse

# More closures than this, in a segment or in all, are not worth their bound.
MOST_OF_A_SEGMENT, MOST = 20_000, 400_000
# A block with nothing it needs, or nothing that needs it, among so many around it is loose; so much of all seconds may be.
BESIDE, MOST_LOOSE = 100, 0.25
# Of what several blocks use so many are counted, where they weigh more than this of all seconds or of a device's memory.
MOST_SHARED, LEAST_SHARED = 4, 1e-5
# Closures looked at together: so many that numpy is worth it, so few that it stops soon.
TOGETHER = 512


@dataclass(frozen=True)
class Amounts:
    """Of a closure, or of each: seconds by kind, forward seconds by kind, saved bytes, parameter bytes."""

    seconds: dict[str, Floats]
    forward: dict[str, Floats]
    saved: Floats
    parameters: Floats

    def work(self, slot: StageDevice, recompute: bool) -> Floats:
        """Seconds on a stage's device."""
        return self.seconds[slot.kind] + (self.forward[slot.kind] if recompute else 0.0)

    def held(self, slot: StageDevice, recompute: bool) -> Floats:
        """Bytes on it, but for what it receives."""
        return self.parameters + slot.saved_microbatches(recompute) * self.saved


@dataclass(frozen=True)
class Closures:
    """Amounts of each closure, a few segments together: `starts[k]` is the first of part k.

    `over_forward`, `over_both` and `messages` are bytes and messages over its boundary; `due` and `free` the seconds of
    loose blocks that it needs, and that have all they need in it. `whole` and `loose` are everything. Of each of `several`,
    which stages have for themselves, `users` counts the blocks in it that use it, `all_users` all.
    """

    starts: Ints
    amounts: Amounts
    over_forward: Floats
    over_both: Floats
    messages: Floats
    due: Floats
    free: Floats
    whole: Amounts
    loose: float
    several: tuple[SharedParameter, ...]
    users: list[Floats]
    all_users: Floats


def closures_of(problem: Problem) -> Closures | None:
    """None when there are too many, or too much is loose."""
    kinds = sorted({slot.kind for slot in problem.stage_devices})
    rows = rows_of_blocks(problem, kinds)
    fastest = np.min(rows[: len(kinds)], axis=0)
    before, after, kept = _without_loose(problem)
    if fastest[~kept].sum() > MOST_LOOSE * fastest.sum():
        return None
    segments = _segments(before, after, kept)
    tables = _tables(before, segments)
    if tables is None:
        return None
    if not kept.all():
        # A last stage may have loose blocks alone.
        tables[-1] = np.vstack([tables[-1], np.ones((1, len(segments[-1])), dtype=bool)])
    ends = np.cumsum([len(table) for table in tables])
    # The last end of each run of so many closures.
    starts = np.array([0, *ends[np.append(np.diff(ends // TOGETHER) > 0, True)]])
    several = _several(problem, kinds)
    counted = [*rows, *(_marks(shared, kept) for shared in several)]
    sums = np.zeros(len(counted))
    columns: list[list[Floats]] = [[] for _ in counted]
    for segment, table in zip(segments, tables, strict=True):
        for q, row in enumerate(counted):
            columns[q].append(sums[q] + table @ row[segment])
        sums += [row[segment].sum() for row in counted]
    whole = _amounts(kinds, [np.array([amount]) for amount in sums[: len(rows)]])
    joined = [np.concatenate(parts) for parts in columns]
    amounts = _amounts(kinds, joined[: len(rows)])
    over = _over(problem, segments, tables)
    due, free = _loose_seconds(before, after, kept, fastest, segments, tables)
    ends_over = over[:, 0], over[:, 1], over[:, 2]
    return Closures(
        starts,
        amounts,
        *ends_over,
        due,
        free,
        whole,
        float(fastest[~kept].sum()),
        several,
        joined[len(rows) :],
        sums[len(rows) :],
    )


def _several(problem: Problem, kinds: list[str]) -> tuple[SharedParameter, ...]:
    """What several blocks use, that with the same users as one; those that weigh most."""
    merged: dict[tuple[int, ...], SharedParameter] = {}
    for shared in problem.shared:
        first = merged.get(shared.users)
        if first is not None:
            shared = SharedParameter(
                first.name,
                first.bytes + shared.bytes,
                first.users,
                {
                    kind: first.seconds.get(kind, 0.0) + shared.seconds.get(kind, 0.0)
                    for kind in kinds
                },
                {
                    kind: first.forward_seconds.get(kind, 0.0)
                    + shared.forward_seconds.get(kind, 0.0)
                    for kind in kinds
                },
                first.saved_bytes + shared.saved_bytes,
            )
        merged[shared.users] = shared
    slot, seconds = (
        problem.stage_devices[0],
        sum(block.seconds[kinds[0]] for block in problem.blocks) or 1.0,
    )

    def weight(shared: SharedParameter) -> float:
        return shared.seconds.get(kinds[0], 0.0) / seconds + shared.bytes_with(
            slot.in_flight
        ) / max(slot.capacity, 1)

    found = [
        shared
        for shared in merged.values()
        if len(shared.users) > 1 and weight(shared) > LEAST_SHARED
    ]
    return tuple(sorted(found, key=weight, reverse=True)[:MOST_SHARED])


def _marks(shared: SharedParameter, kept: Bools) -> Floats:
    """1 for each of its users that is not loose."""
    row = np.zeros(len(kept))
    row[list(shared.users)] = 1.0
    return row * kept


def _amounts(kinds: list[str], columns: list[Floats]) -> Amounts:
    count = len(kinds)
    seconds, forward = (
        dict(zip(kinds, part, strict=True))
        for part in (columns[:count], columns[count : 2 * count])
    )
    return Amounts(seconds, forward, columns[-2], columns[-1])


Neighbours = list[set[int]]


def _without_loose(problem: Problem) -> tuple[Neighbours, Neighbours, Bools]:
    """Who each block needs and who needs it, past what is loose; and which are not."""
    count = len(problem.blocks)
    before: Neighbours = [set() for _ in range(count)]
    after: Neighbours = [set() for _ in range(count)]
    for u, v in problem.edges:
        before[v].add(u)
        after[u].add(v)
    kept = np.ones(count, dtype=bool)
    changed = True
    while changed:
        changed = False
        for v in map(int, np.flatnonzero(kept)):
            if (
                min(after[v], default=count) - max(before[v], default=-1) > BESIDE
                and 0 < v < count - 1
            ):
                kept[v], changed = False, True
                for u in before[v]:
                    after[u].discard(v)
                    after[u] |= after[v]
                for w in after[v]:
                    before[w].discard(v)
                    before[w] |= before[v]
    return before, after, kept


def _segments(before: Neighbours, after: Neighbours, kept: Bools) -> list[Ints]:
    """The kept blocks, cut after each that all others of them come before or after.

    Block i comes before all later ones exactly when each of these needs one that is not earlier than i, and after all
    earlier ones when each of these is needed by one that is not later. Blocks stand in a topological order.
    """
    blocks = np.flatnonzero(kept)
    nearest_before = np.array([max(before[v], default=-1) for v in blocks])
    nearest_after = np.array([min(after[v], default=len(kept)) for v in blocks])
    later = np.append(np.minimum.accumulate(nearest_before[::-1])[::-1][1:], len(kept))
    earlier = np.insert(np.maximum.accumulate(nearest_after)[:-1], 0, -1)
    ends = np.flatnonzero((later >= blocks) & (earlier <= blocks))
    return [part for part in np.split(blocks, ends + 1) if len(part)]


def _tables(before: Neighbours, segments: list[Ints]) -> list[Bools] | None:
    """The closures of each segment; layers alike have the same."""
    known: dict[tuple[tuple[int, ...], ...], Bools | None] = {}
    tables, total = [], 0
    for segment in segments:
        place = {int(v): i for i, v in enumerate(segment)}
        shape = tuple(tuple(sorted(place[u] for u in before[v] if u in place)) for v in segment)
        if shape not in known:
            known[shape] = _of_segment(shape)
        table = known[shape]
        total += len(table) if table is not None else MOST + 1
        if table is None or total > MOST:
            return None
        tables.append(table)
    return tables


def _of_segment(needs: tuple[tuple[int, ...], ...]) -> Bools | None:
    """A row for each closure of a segment but the whole, which the next begins with; None when there are too many."""
    size = len(needs)
    required = [sum(1 << u for u in own) for own in needs]
    seen = {0}
    frontier = [0]
    while frontier:
        following = []
        for held in frontier:
            for v in range(size):
                if (
                    not held >> v & 1
                    and required[v] & held == required[v]
                    and (more := held | 1 << v) not in seen
                ):
                    seen.add(more)
                    following.append(more)
        if len(seen) > MOST_OF_A_SEGMENT:
            return None
        frontier = following
    seen.discard((1 << size) - 1)
    return np.array(
        [[bool(held >> v & 1) for v in range(size)] for held in sorted(seen)], dtype=bool
    ).reshape(len(seen), size)


class _Places:
    """Segment and position of every kept block, and a sum over segments that grows from one on."""

    def __init__(self, segments: list[Ints], tables: list[Bools], width: int) -> None:
        self.tables = tables
        self.segment = {int(v): k for k, segment in enumerate(segments) for v in segment}
        self.position = {int(v): i for segment in segments for i, v in enumerate(segment)}
        self.through = np.zeros((len(segments) + 1, width))
        self.parts = [np.zeros((len(table), width)) for table in tables]

    def inside(self, k: int, blocks: list[int]) -> Bools:
        """Which of those blocks each closure of segment k holds, by column."""
        return self.tables[k][:, [self.position[v] for v in blocks if self.segment[v] == k]]

    def cross(self, source: int, consumers: list[int], amount: Floats) -> None:
        """Add a tensor to every closure that has its source, or where that is loose one of its consumers, and not them all."""
        loose = source not in self.segment
        using = [self.segment[c] for c in consumers]
        first, last = min(using) if loose else self.segment[source], max(using)
        # Over every boundary strictly between, whatever the closure.
        self.through[first + 1] += amount
        self.through[max(last, first + 1)] -= amount
        for k in {first, last}:
            nothing = np.ones(len(self.tables[k]), dtype=bool)
            made = (
                self.inside(k, consumers if loose else [source]).any(axis=1)
                if k == first
                else nothing
            )
            wanted = ~self.inside(k, consumers).all(axis=1) if k == last else nothing
            self.parts[k] += np.outer(made & wanted, amount)

    def all(self) -> Floats:
        """The sum of every closure."""
        through = np.cumsum(self.through, axis=0)
        return np.concatenate([part + through[k] for k, part in enumerate(self.parts)])


def _over(problem: Problem, segments: list[Ints], tables: list[Bools]) -> Floats:
    """Bytes forward, bytes both ways and messages over the boundary of each closure.

    What a loose block makes is there where some block that uses it is. Where a tensor goes through a run of loose blocks to a
    single block, something crosses between its source and that block, and no less than the least along the run.
    """
    places = _Places(segments, tables, 3)
    made_by: dict[int, list[TensorUse]] = {}
    for tensor in problem.tensors:
        made_by.setdefault(tensor.source, []).append(tensor)
    for tensor in problem.tensors:
        consumers = [c for c in tensor.consumers if c in places.segment]
        amount = _amount(tensor)
        ends = [_end_of(c, made_by, places) for c in tensor.consumers if c not in places.segment]
        beyond = [(block, least) for block, least in ends if block is not None]
        if beyond:
            # The least of them crosses to any of these blocks, and the rest of this one to those that use it directly.
            least = np.min([amount, *(other for _, other in beyond)], axis=0)
            places.cross(tensor.source, [*consumers, *(block for block, _ in beyond)], least)
            amount = amount - least
        if consumers:
            places.cross(tensor.source, consumers, amount)
    return places.all()


def _end_of(
    loose: int, made_by: dict[int, list[TensorUse]], places: _Places
) -> tuple[int | None, Floats]:
    """The block that a run of loose blocks ends at, each with one user, and the least that goes from one to the next."""
    least = np.full(3, np.inf)
    while loose not in places.segment:
        made = made_by.get(loose, [])
        if len(made) != 1 or len(made[0].consumers) != 1:
            return None, least
        least, loose = np.minimum(least, _amount(made[0])), made[0].consumers[0]
    return loose, least


def _amount(tensor: TensorUse) -> Floats:
    return np.array(
        [
            tensor.forward_bytes,
            tensor.forward_bytes + tensor.backward_bytes,
            float(tensor.messages),
        ]
    )


def _loose_seconds(
    before: Neighbours,
    after: Neighbours,
    kept: Bools,
    seconds: Floats,
    segments: list[Ints],
    tables: list[Bools],
) -> tuple[Floats, Floats]:
    """Seconds of loose blocks that each closure needs, and of those that have all they need in it."""
    due, free = _Places(segments, tables, 1), _Places(segments, tables, 1)
    for v in map(int, np.flatnonzero(~kept)):
        needed_by, needs = [w for w in after[v] if kept[w]], [u for u in before[v] if kept[u]]
        if needed_by:
            first: int = min(due.segment[w] for w in needed_by)
            due.through[first + 1] += seconds[v]
            due.parts[first][:, 0] += seconds[v] * due.inside(first, needed_by).any(axis=1)
        last: int = max((free.segment[u] for u in needs), default=-1)
        free.through[last + 1] += seconds[v]
        if last >= 0:
            free.parts[last][:, 0] += seconds[v] * free.inside(last, needs).all(axis=1)
    return due.all()[:, 0], free.all()[:, 0]
