"""What lies across the boundary of every closure: tensors, and loose blocks due or free to run."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from pipecut.compiler.partition.bounds.segments import Needs, Segments
from pipecut.compiler.partition.chain.prefix_sums import Bools, Floats
from pipecut.compiler.partition.problem import Problem, StageDevice, TensorUse

# Of the seconds of loose blocks in no run, those that may be done without a heavy tensor crossing.
MOST_LIGHT = 0.1


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
    runs_from = _Runs(problem, sums.segment_of)
    for tensor in problem.tensors:
        kept = [consumer for consumer in tensor.consumers if consumer in sums.segment_of]
        amount = _amount(tensor)
        runs = runs_from.of(tensor)
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
class Run:
    """Loose blocks, each with one user, up to a kept block, and the least between two of them."""

    loose: tuple[int, ...]
    block: int
    least: Floats


class _Runs:
    """The runs of loose blocks that use a tensor; `segment_of` has the kept blocks."""

    def __init__(self, problem: Problem, segment_of: dict[int, int]) -> None:
        self.segment_of = segment_of
        self.made_by: dict[int, list[TensorUse]] = {}
        for tensor in problem.tensors:
            self.made_by.setdefault(tensor.source, []).append(tensor)

    def of(self, tensor: TensorUse) -> list[Run]:
        """Those that begin with a consumer."""
        loose = [consumer for consumer in tensor.consumers if consumer not in self.segment_of]
        return [run for block in loose if (run := self._from(block)) is not None]

    def _from(self, first: int) -> Run | None:
        """The run that begins with a loose block; None where it has several users."""
        least, block, loose = np.full(3, np.inf), first, []
        while block not in self.segment_of:
            tensors = self.made_by.get(block, [])
            if len(tensors) != 1 or len(tensors[0].consumers) != 1:
                return None
            loose.append(block)
            least, block = np.minimum(least, _amount(tensors[0])), tensors[0].consumers[0]
        return Run(tuple(loose), block, least)


def _amount(tensor: TensorUse) -> Floats:
    """The columns of `Crossing`."""
    return np.array([tensor.forward_bytes, tensor.both_ways_bytes, float(tensor.messages)])


@dataclass(frozen=True)
class LooseWork:
    """Seconds of loose blocks before the boundary of each closure.

    `due`    those that it needs
    `free`   those that have all they need in it
    `beside` how many more than are due are in no run
    `light`  how many of these make nothing that weighs as much as `heavy`: more of them are done
             before they are due only where that crosses
    `paying` how many more than are due are in runs, each of which has a tensor across the boundary
    `spared` seconds of those that pay nothing where all of them are done
    `runs`   seconds of each run that pays, and what crosses for it at the least
    """

    due: Floats
    free: Floats
    beside: Floats
    light: float
    heavy: Floats
    paying: Floats
    spared: float
    runs: tuple[tuple[float, Floats], ...]

    def worth(self, part: slice, most: Floats, link: StageDevice) -> Floats:
        """Seconds that the next stages are spared where a stage has `most` for loose blocks.

        What crosses the boundary takes both stages longer.
        """
        early, beside, heavy = most - self.due[part], self.beside[part], _seconds(self.heavy, link)
        light = self._spared(part, early, np.minimum(beside, self.light), link)
        both = self._spared(part, early - heavy, beside, link) - heavy
        result: Floats = np.minimum(self.due[part] + np.maximum(light, both), self.free[part])
        return result

    def _spared(self, part: slice, early: Floats, unpaid: Floats, link: StageDevice) -> Floats:
        """As `worth`, beyond what is due; `unpaid` seconds take nothing more than themselves."""
        paying = self.paying[part]
        # For a second of a run; for more than a second it would not be worth it.
        price = min([1.0, *(_seconds(least, link) / seconds for seconds, least in self.runs)])
        beyond = np.maximum(early - unpaid, 0.0)
        some = np.minimum(beyond / (1.0 + price), paying) * (1.0 - price)
        for_all = price * np.maximum(paying - self.spared, 0.0)
        after_all = early - paying - for_all
        of_all = paying - for_all + np.minimum(np.maximum(after_all, 0.0), unpaid)
        result: Floats = np.minimum(early, unpaid) + some
        return np.where(after_all >= 0.0, np.maximum(result, of_all), result)


def _seconds(amount: Floats, link: StageDevice) -> float:
    """Seconds over a link for the columns of `Crossing`."""
    return float(amount[1] / link.bandwidth + amount[2] * link.latency)


def loose_work(problem: Problem, needs: Needs, segments: Segments, seconds: Floats) -> LooseWork:
    """What may be done of the loose blocks before each boundary, and what it takes.

    A run that is begun before it is due has a tensor across the boundary, beside that of the runs'
    source, which the others need and which is counted already (`crossing`). Only where all runs of
    a source are begun does that one not cross: then the longest run pays nothing. With several
    sources, the longest run of each never pays.
    """
    groups = _groups_that_pay(problem, segments)
    in_runs = np.zeros(len(needs.kept), dtype=bool)
    for run in (run for group in groups for run in group):
        in_runs[list(run.loose)] = True
    due, free = _loose_seconds(needs, segments, np.where(needs.kept, 0.0, seconds))
    due_in_runs, free_in_runs = _loose_seconds(needs, segments, np.where(in_runs, seconds, 0.0))
    longest = sum(max(_seconds_of(run, seconds) for run in group) for group in groups)
    paying = np.maximum(free_in_runs - due_in_runs, 0.0)
    beside = np.maximum(free - due - paying, 0.0)
    light, heavy = _heavy_beside(problem, ~needs.kept & ~in_runs, in_runs, seconds)
    if len(groups) > 1:
        beside, light = beside + longest, light + longest
        paying = np.maximum(paying - longest, 0.0)
    runs = [(_seconds_of(run, seconds), run.least) for group in groups for run in group]
    spared = longest if len(groups) == 1 else 0.0
    return LooseWork(
        due,
        free,
        beside,
        light,
        heavy,
        paying,
        spared,
        tuple(run for run in runs if run[0] > 0.0),
    )


def _heavy_beside(
    problem: Problem, beside: Bools, in_runs: Bools, seconds: Floats
) -> tuple[float, Floats]:
    """Seconds of the blocks that can be done with nothing heavy across the boundary, and how heavy.

    A block can be where all that it makes is lighter, or is used only by blocks that can be, too,
    or by runs, which pay for themselves. The heaviest amount is taken that leaves few seconds to
    the others.
    """
    made = [tensor for tensor in problem.tensors if beside[tensor.source]]
    all_seconds = float(seconds[beside].sum())
    for amount in sorted({tensor.both_ways_bytes for tensor in made}, reverse=True):
        heavy = [tensor for tensor in made if tensor.both_ways_bytes >= amount]
        light = beside.copy()
        changed = True
        while changed:
            done = light | in_runs
            crossing_ones = [t for t in heavy if light[t.source] and not done[[*t.consumers]].all()]
            light[[tensor.source for tensor in crossing_ones]] = False
            changed = bool(crossing_ones)
        if float(seconds[light].sum()) <= MOST_LIGHT * all_seconds:
            return float(seconds[light].sum()), np.min([_amount(t) for t in heavy], axis=0)
    return all_seconds, np.zeros(3)


def _seconds_of(run: Run, seconds: Floats) -> float:
    return float(seconds[list(run.loose)].sum())


def _groups_that_pay(problem: Problem, segments: Segments) -> list[list[Run]]:
    """The runs of each kept source, of which none shares a block with another."""
    segment_of = {int(block): k for k, blocks in enumerate(segments.blocks) for block in blocks}
    runs_from = _Runs(problem, segment_of)
    groups = [runs_from.of(tensor) for tensor in problem.tensors if tensor.source in segment_of]
    uses = Counter(block for group in groups for run in group for block in run.loose)
    alone = [[run for run in group if all(uses[b] == 1 for b in run.loose)] for group in groups]
    return [group for group in alone if group]


def _loose_seconds(needs: Needs, segments: Segments, seconds: Floats) -> tuple[Floats, Floats]:
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
