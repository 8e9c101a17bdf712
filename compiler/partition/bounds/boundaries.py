"""What lies across the boundary of every closure: tensors, and loose blocks due or free to run."""

from dataclasses import dataclass

import numpy as np

from pipecut.compiler.partition.bounds.segments import Needs, Segments
from pipecut.compiler.partition.chain.prefix_sums import Bools, Floats
from pipecut.compiler.partition.problem import Problem, StageDevice, TensorUse


@dataclass(frozen=True)
class Crossing:
    """Bytes forward, bytes both ways and messages across the boundary of each closure."""

    forward_bytes: Floats
    both_ways_bytes: Floats
    messages: Floats

    def seconds_over(self, link: StageDevice) -> Floats:
        """Seconds over the link of a stage."""
        return self.both_ways_bytes / link.bandwidth + self.messages * link.latency


class _SumsOfClosures:
    """Sums for every closure, made of what is added for a segment's closures and from one on."""

    def __init__(self, segments: Segments, width: int) -> None:
        self.tables = segments.tables
        self.segment_of = {
            int(block): k for k, blocks in enumerate(segments.blocks) for block in blocks
        }
        self.column_of = {
            int(block): at for blocks in segments.blocks for at, block in enumerate(blocks)
        }
        # changes[k] is added to every closure of segment k and of all after it.
        self.changes = np.zeros((len(segments.blocks) + 1, width))
        self.within = [np.zeros((len(table), width)) for table in segments.tables]

    def inside(self, segment: int, blocks: list[int]) -> Bools:
        """Which of those blocks that are of a segment each of its closures holds, by column."""
        columns = [self.column_of[v] for v in blocks if self.segment_of[v] == segment]
        return self.tables[segment][:, columns]

    def add_crossing(self, source: int, consumers: list[int], amount: Floats) -> None:
        """Add a tensor to every closure that has its source and not all of its consumers.

        Where the source is loose: to every closure that has one of the consumers and not all.
        """
        is_loose = source not in self.segment_of
        using = [self.segment_of[consumer] for consumer in consumers]
        first, last = min(using) if is_loose else self.segment_of[source], max(using)
        # Across every boundary strictly between, whatever the closure.
        self.changes[first + 1] += amount
        self.changes[max(last, first + 1)] -= amount
        for segment in {first, last}:
            crosses = np.ones(len(self.tables[segment]), dtype=bool)
            if segment == first:
                makers = consumers if is_loose else [source]
                crosses &= self.inside(segment, makers).any(axis=1)
            if segment == last:
                crosses &= ~self.inside(segment, consumers).all(axis=1)
            self.within[segment] += np.outer(crosses, amount)

    def all(self) -> Floats:
        """The sums, a row per closure."""
        from_before = np.cumsum(self.changes, axis=0)
        return np.concatenate([rows + from_before[k] for k, rows in enumerate(self.within)])


def crossing(problem: Problem, segments: Segments) -> Crossing:
    """The tensors across the boundary of each closure.

    What a loose block makes is counted where some block that uses it is. Where a tensor goes
    through a run of loose blocks to a single block, something crosses between its source and that
    block, and no less than the least along the run.
    """
    sums = _SumsOfClosures(segments, 3)
    made_by: dict[int, list[TensorUse]] = {}
    for tensor in problem.tensors:
        made_by.setdefault(tensor.source, []).append(tensor)
    for tensor in problem.tensors:
        kept = [consumer for consumer in tensor.consumers if consumer in sums.segment_of]
        amount = _amount(tensor)
        runs = [
            run
            for consumer in tensor.consumers
            if consumer not in sums.segment_of
            and (run := _run_of(consumer, made_by, sums.segment_of)) is not None
        ]
        if runs:
            # The least of them crosses to any of the blocks, the rest only to the direct users.
            least = np.min([amount, *(run.least for run in runs)], axis=0)
            sums.add_crossing(tensor.source, [*kept, *(run.block for run in runs)], least)
            amount = amount - least
        if kept:
            sums.add_crossing(tensor.source, kept, amount)
    table = sums.all()
    return Crossing(table[:, 0], table[:, 1], table[:, 2])


@dataclass(frozen=True)
class _Run:
    """Loose blocks, each with one user, up to a kept block, and the least between two of them."""

    block: int
    least: Floats


def _run_of(
    loose: int, made_by: dict[int, list[TensorUse]], segment_of: dict[int, int]
) -> _Run | None:
    """The run that begins with a loose block; None where it has several users."""
    least, block = np.full(3, np.inf), loose
    while block not in segment_of:
        tensors = made_by.get(block, [])
        if len(tensors) != 1 or len(tensors[0].consumers) != 1:
            return None
        least, block = np.minimum(least, _amount(tensors[0])), tensors[0].consumers[0]
    return _Run(block, least)


def _amount(tensor: TensorUse) -> Floats:
    """The columns of `Crossing`."""
    return np.array([tensor.forward_bytes, tensor.both_ways_bytes, float(tensor.messages)])


def loose_seconds(needs: Needs, segments: Segments, seconds: Floats) -> tuple[Floats, Floats]:
    """Seconds of the loose blocks that each closure needs, and of those that it lets run."""
    due, free = _SumsOfClosures(segments, 1), _SumsOfClosures(segments, 1)
    for loose in map(int, np.flatnonzero(~needs.kept)):
        users = [block for block in needs.after[loose] if needs.kept[block]]
        sources = [block for block in needs.before[loose] if needs.kept[block]]
        if users:
            first: int = min(due.segment_of[block] for block in users)
            due.changes[first + 1] += seconds[loose]
            due.within[first][:, 0] += seconds[loose] * due.inside(first, users).any(axis=1)
        last: int = max((free.segment_of[block] for block in sources), default=-1)
        free.changes[last + 1] += seconds[loose]
        if last >= 0:
            free.within[last][:, 0] += seconds[loose] * free.inside(last, sources).all(axis=1)
    return due.all()[:, 0], free.all()[:, 0]
