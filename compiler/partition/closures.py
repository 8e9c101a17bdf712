"""Every set of blocks that may stand before a boundary, where these are few, and the bound they prove.

The blocks before a boundary are a closure: they hold all that their members need. Where a model is layer after layer, each
block that all others come before or after ends a segment, and a closure is all segments up to one of them and a closure
of the next alone. A layer has some hundreds. Stage after stage the closures that can stand before the next boundary are
found for a bottleneck T, as a chain's ends are (`chain.py`), but over all topological orders at once: of those reached only the
ones matter that no other beats in seconds and bytes. That a stage's end holds its start is not asked within a segment,
parameters with several users are left out, and so are a few blocks of next to no cost that stand beside everything:
this makes T a bound where nothing is reached, and no more.
"""

from dataclasses import dataclass

import numpy as np

from pipecut.compiler.partition.problem import Problem, ways
from pipecut.compiler.partition.room import Bools, Floats, Ints

# More closures than this, in a segment or in all, are not worth their bound.
MOST_OF_A_SEGMENT, MOST = 20_000, 400_000
# A block below this part of all seconds, saved bytes and parameter bytes may be left out, and all of them below that.
SMALL, SMALL_TOGETHER = 1e-4, 1e-3
PRECISION = 1e-3
# Closures looked at together: so many that numpy is worth it, so few that it stops soon.
TOGETHER = 512


def closure_bound(problem: Problem, low: float, high: float) -> float:
    """The largest bottleneck between two that provably nothing reaches; `low` when there are too many closures to say.

    Infinite where `high` is, and nothing fits whatever the bottleneck.
    """
    closures = _closures(problem) if problem.comm == "relay" and not problem.devices else None
    if closures is None:
        return low
    search = _Search(problem, closures)
    if not np.isfinite(high):
        return low if search.reaches(high) else high
    # Most often what is known is all but optimal, and the first question settles it.
    known = high
    for share in (5e-7, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2):
        if (asked := known * (1 - share)) <= low:
            break
        if not search.reaches(asked):
            return asked
        high = asked
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if search.reaches(middle) else (middle, high)
    return low


@dataclass(frozen=True)
class _Closures:
    """Amounts of each closure, a few segments together: `starts[k]` is the first of part k. Bytes and messages over its boundary.

    `whole` has the amounts of everything: seconds by kind, forward seconds by kind, saved bytes, parameter bytes.
    """

    starts: Ints
    whole: tuple[dict[str, float], dict[str, float], float, float]
    seconds: dict[str, Floats]
    forward: dict[str, Floats]
    saved: Floats
    parameters: Floats
    over_forward: Floats
    over_both: Floats
    over_messages: Floats


def _closures(problem: Problem) -> _Closures | None:
    kinds = sorted({slot.kind for slot in problem.slots})
    parameters = np.zeros(len(problem.blocks))
    for shared in problem.shared:
        if len(shared.users) == 1:
            parameters[shared.users[0]] += shared.bytes
    rows = [np.array([b.seconds[k] for b in problem.blocks]) for k in kinds]
    rows += [np.array([b.forward.get(k, 0.0) for b in problem.blocks]) for k in kinds]
    rows += [np.array([float(b.saved_bytes) for b in problem.blocks]), parameters]
    segments = _segments(problem, _kept(problem, rows))
    # Layers alike have the same closures.
    known: dict[tuple[int, tuple[tuple[int, int], ...]], Bools | None] = {}
    edges = _edges_within(problem, segments)
    tables = []
    total = 0
    for segment, inner in zip(segments, edges, strict=True):
        key = len(segment), inner
        if key not in known:
            known[key] = _of_segment(*key)
        table = known[key]
        total += len(table) if table is not None else MOST + 1
        if table is None or total > MOST:
            return None
        tables.append(table)
    ends = np.cumsum([len(table) for table in tables])
    # The last end of each run of so many closures.
    starts = np.array([0, *ends[np.append(np.diff(ends // TOGETHER) > 0, True)]])
    before = np.zeros(len(rows))
    amounts: list[list[Floats]] = [[] for _ in rows]
    for segment, table in zip(segments, tables, strict=True):
        for q, row in enumerate(rows):
            amounts[q].append(before[q] + table @ row[segment])
        before += [row[segment].sum() for row in rows]
    columns = [np.concatenate(parts) for parts in amounts]
    over = _over(problem, segments, tables)
    count = len(kinds)
    whole = [float(amount) for amount in before]
    return _Closures(
        starts,
        (
            dict(zip(kinds, whole[:count], strict=True)),
            dict(zip(kinds, whole[count : 2 * count], strict=True)),
            whole[-2],
            whole[-1],
        ),
        dict(zip(kinds, columns[:count], strict=True)),
        dict(zip(kinds, columns[count : 2 * count], strict=True)),
        columns[-2],
        columns[-1],
        *over,
    )


def _kept(problem: Problem, rows: list[Floats]) -> Bools:
    """All blocks but those of next to no cost that begin or end a path: they stand beside many others."""
    share = np.max([row / (row.sum() or 1.0) for row in rows], axis=0)
    kept = np.ones(len(share), dtype=bool)
    spent, changed = 0.0, True
    before, after = _neighbours(problem)
    while changed:
        changed = False
        for v in np.flatnonzero(kept & (share <= SMALL)):
            at_an_end = not any(kept[u] for u in before[v]) or not any(kept[w] for w in after[v])
            if at_an_end and spent + share[v] <= SMALL_TOGETHER:
                kept[v] = False
                spent += float(share[v])
                changed = True
    return kept


def _neighbours(problem: Problem) -> tuple[list[list[int]], list[list[int]]]:
    before: list[list[int]] = [[] for _ in problem.blocks]
    after: list[list[int]] = [[] for _ in problem.blocks]
    for u, v in problem.edges:
        before[v].append(u)
        after[u].append(v)
    return before, after


def _segments(problem: Problem, kept: Bools) -> list[Ints]:
    """The kept blocks, cut after each that all others of them come before or after.

    Block i comes before all later ones exactly when each of these needs one that is not earlier than i, and after all
    earlier ones when each of these is needed by one that is not later. Blocks stand in a topological order.
    """
    blocks = np.flatnonzero(kept)
    at = np.full(len(kept), -1)
    at[blocks] = np.arange(len(blocks))
    nearest_before, nearest_after = np.full(len(blocks), -1), np.full(len(blocks), len(blocks))
    for u, v in problem.edges:
        if kept[u] and kept[v]:
            nearest_before[at[v]] = max(nearest_before[at[v]], at[u])
            nearest_after[at[u]] = min(nearest_after[at[u]], at[v])
    index = np.arange(len(blocks))
    later = np.append(np.minimum.accumulate(nearest_before[::-1])[::-1][1:], len(blocks))
    earlier = np.insert(np.maximum.accumulate(nearest_after)[:-1], 0, -1)
    ends = np.flatnonzero((later >= index) & (earlier <= index))
    return [part for part in np.split(blocks, ends + 1) if len(part)]


def _edges_within(problem: Problem, segments: list[Ints]) -> list[tuple[tuple[int, int], ...]]:
    """The edges of each segment, by position within it."""
    place = {int(v): (k, i) for k, segment in enumerate(segments) for i, v in enumerate(segment)}
    result: list[list[tuple[int, int]]] = [[] for _ in segments]
    for u, v in problem.edges:
        if u in place and v in place and place[u][0] == place[v][0]:
            result[place[u][0]].append((place[u][1], place[v][1]))
    return [tuple(sorted(edges)) for edges in result]


def _of_segment(size: int, edges: tuple[tuple[int, int], ...]) -> Bools | None:
    """A row for each closure of a segment but the whole, which the next begins with; None when there are too many."""
    required = [0] * size
    for u, v in edges:
        required[v] |= 1 << u
    seen = {0}
    frontier = [0]
    while frontier:
        following = []
        for held in frontier:
            for v in range(size):
                if not held >> v & 1 and required[v] & held == required[v] and (more := held | 1 << v) not in seen:
                    seen.add(more)
                    following.append(more)
        if len(seen) > MOST_OF_A_SEGMENT:
            return None
        frontier = following
    seen.discard((1 << size) - 1)
    return np.array([[bool(held >> v & 1) for v in range(size)] for held in sorted(seen)], dtype=bool).reshape(len(seen), size)


def _over(problem: Problem, segments: list[Ints], tables: list[Bools]) -> tuple[Floats, Floats, Floats]:
    """Bytes forward, bytes both ways and messages over the boundary of each closure. Blocks left out cross nothing."""
    segment_of = {int(v): k for k, segment in enumerate(segments) for v in segment}
    place = {int(v): i for segment in segments for i, v in enumerate(segment)}
    through = np.zeros((len(segments) + 1, 3))
    parts = [np.zeros((len(table), 3)) for table in tables]
    for crossing in problem.crossings:
        consumers = [c for c in crossing.consumers if c in segment_of]
        if crossing.source not in segment_of or not consumers:
            continue
        amount = np.array([crossing.forward_bytes, crossing.forward_bytes + crossing.backward_bytes, float(crossing.messages)])
        first, last = segment_of[crossing.source], max(segment_of[c] for c in consumers)
        # Over every boundary strictly between, whatever the closure.
        through[first + 1] += amount
        through[max(last, first + 1)] -= amount
        for k in {first, last}:
            table = tables[k]
            made = table[:, place[crossing.source]] if k == first else np.ones(len(table), dtype=bool)
            used = [place[c] for c in consumers if segment_of[c] == k]
            wanted = ~table[:, used].all(axis=1) if k == last else np.ones(len(table), dtype=bool)
            parts[k] += np.outer(made & wanted, amount)
    through = np.cumsum(through, axis=0)
    columns = np.concatenate([part + through[k] for k, part in enumerate(parts)])
    return columns[:, 0], columns[:, 1], columns[:, 2]


@dataclass(frozen=True)
class _Boundary:
    """What a stage that begins with each closure starts from, for each of its ways: (seconds, bytes), and their most so far."""

    coordinates: Floats
    highest: Floats


class _Search:
    def __init__(self, problem: Problem, closures: _Closures) -> None:
        self.problem, self.closures, self.ways = problem, closures, ways(problem)
        self.known: dict[int, _Boundary] = {}
        self.earliest = {k: np.minimum.reduceat(row, closures.starts[:-1]) for k, row in closures.seconds.items()}

    def _transfers(self, boundary: int) -> Floats:
        """Seconds over the boundary before stage `boundary`."""
        link = self.problem.slots[boundary - 1]
        return self.closures.over_both / link.bandwidth + self.closures.over_messages * link.latency

    def _start(self, stage: int) -> _Boundary:
        if stage not in self.known:
            slot, c = self.problem.slots[stage], self.closures
            columns = []
            for way in self.ways:
                flying = min(1, slot.in_flight) if way else slot.in_flight
                work = c.seconds[slot.kind] + (c.forward[slot.kind] if way else 0.0)
                columns += [work - self._transfers(stage), c.parameters + flying * c.saved - slot.in_flight * c.over_forward]
            coordinates = np.stack(columns, axis=1)
            highest = np.maximum.reduceat(coordinates, c.starts[:-1], axis=0)
            self.known[stage] = _Boundary(coordinates, np.maximum.accumulate(highest, axis=0))
        return self.known[stage]

    def reaches(self, target: float) -> bool:
        """Whether the last stage can end with everything, no stage above `target` seconds."""
        front = np.zeros((1, 2 * len(self.ways)))
        for stage in range(len(self.problem.slots) - 1):
            front = self._following(stage, front, target)
            if not len(front):
                return False
        slot = self.problem.slots[-1]
        seconds, forward, saved, parameters = self.closures.whole
        for way, recompute in enumerate(self.ways):
            flying = min(1, slot.in_flight) if recompute else slot.in_flight
            work = seconds[slot.kind] + (forward[slot.kind] if recompute else 0.0)
            here = work - front[:, 2 * way] <= target
            if (here & (parameters + flying * saved - front[:, 2 * way + 1] <= slot.capacity)).any():
                return True
        return False

    def _following(self, stage: int, front: Floats, target: float) -> Floats:
        """Of the closures that a stage can end with, those that none beats as a start of the next.

        Part by part from the last that may be reached, until what was found beats all before.
        """
        slot, c = self.problem.slots[stage], self.closures
        following = self._start(stage + 1)
        found = np.zeros((0, front.shape[1]))
        last = int(np.searchsorted(self.earliest[slot.kind], front[:, 0].max() + target, side="right"))
        for k in range(last - 1, -1, -1):
            if len(found) and (found >= following.highest[k]).all(axis=1).any():
                break
            part = slice(c.starts[k], c.starts[k + 1])
            reached = np.zeros(c.starts[k + 1] - c.starts[k], dtype=bool)
            seconds = c.seconds[slot.kind][part] + self._transfers(stage + 1)[part]
            for way, recompute in enumerate(self.ways):
                flying = min(1, slot.in_flight) if recompute else slot.in_flight
                work = seconds + c.forward[slot.kind][part] if recompute else seconds
                room = c.parameters[part] + flying * c.saved[part] - slot.capacity
                fits = (work[:, None] - front[None, :, 2 * way] <= target) & (room[:, None] <= front[None, :, 2 * way + 1])
                reached |= fits.any(axis=1)
            found = _unbeaten(np.concatenate([found, following.coordinates[part][reached]]))
        return found


def _unbeaten(rows: Floats) -> Floats:
    """The rows that no other row equals or exceeds in every column."""
    rows = rows[np.argsort(-rows.sum(axis=1), kind="stable")]
    result = []
    while len(rows):
        best = rows[0]
        result.append(best)
        rows = rows[(rows > best).any(axis=1)]
    return np.array(result) if result else rows
