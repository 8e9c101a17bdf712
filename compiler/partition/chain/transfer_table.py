"""Seconds that a segment of the order spends on direct transfers, for all segments at once.

Where a tensor costs a segment j..i-1 depends on j and i only by comparisons, so that it is a sum
of rectangles over (j, i). Each rectangle adds to four corners of a table of differences, and two
running sums make the table of all tensors.
"""

import numpy as np

from pipecut.compiler.partition.chain.prefix_sums import Floats
from pipecut.compiler.partition.load import transfer_seconds
from pipecut.compiler.partition.problem import Problem, TensorUse


def transfer_table(problem: Problem, stage: int) -> Floats:
    """Transfer seconds of blocks j..i-1 on a stage, without others, index [j, i]."""
    rectangles = _Rectangles(len(problem.blocks))
    for tensor in problem.tensors:
        seconds = transfer_seconds(problem, tensor, stage)
        _add_leaving(rectangles, tensor, seconds)
        _add_arriving(rectangles, tensor, seconds)
    table = rectangles.sums()
    # Rounding errors in sums that should be zero: 1e-12 of the largest is below any cost.
    return np.where(np.abs(table) < 1e-12 * max(1.0, float(np.abs(table).max())), 0.0, table)


class _Rectangles:
    def __init__(self, count: int) -> None:
        self.count = count
        self.change = np.zeros((count + 2, count + 2))

    def add(self, starts: tuple[int, int], stops: tuple[int, int], seconds: float) -> None:
        """Add to all segments whose start and end lie in these ranges, both bounds included."""
        (first_start, last_start), (first_end, last_end) = starts, stops
        if first_start <= last_start and first_end <= last_end:
            self.change[first_start, first_end] += seconds
            self.change[last_start + 1, first_end] -= seconds
            self.change[first_start, last_end + 1] -= seconds
            self.change[last_start + 1, last_end + 1] += seconds

    def sums(self) -> Floats:
        """The table, index [start, end]."""
        size = self.count + 1
        table: Floats = np.cumsum(np.cumsum(self.change, axis=0), axis=1)[:size, :size]
        return table


def _add_leaving(rectangles: _Rectangles, tensor: TensorUse, seconds: float) -> None:
    """A segment sends a tensor when the source is inside and some consumer is not."""
    source, count = tensor.source, rectangles.count
    first, last = min(tensor.blocks), max(tensor.blocks)
    rectangles.add((0, source), (source + 1, count), seconds)
    # The source and all consumers inside.
    rectangles.add((0, first), (last + 1, count), -seconds)


def _add_arriving(rectangles: _Rectangles, tensor: TensorUse, seconds: float) -> None:
    """A segment receives a tensor when some consumer is inside and the source is not.

    No consumer is inside where the segment lies within a gap between two of them.
    """
    source, count = tensor.source, rectangles.count
    consumers = sorted({*tensor.consumers})
    gaps = list(zip([-1, *consumers], [*consumers, count], strict=True))
    rectangles.add((0, count), (0, count), seconds)
    for before, after in gaps:
        rectangles.add((before + 1, count), (0, after), -seconds)
    rectangles.add((0, source), (source + 1, count), -seconds)
    # Without a consumer and with the source inside was taken off twice.
    for before, after in gaps:
        if before < source < after:
            rectangles.add((before + 1, source), (source + 1, after), seconds)
