"""What may stand on the stages before each boundary.

The blocks before a boundary are a set D that holds all that its members need: a closure. A
placement that beats a known bottleneck U leaves no more than U on any stage, so that D has neither
too few seconds nor too many; and then some blocks are in every such D and some in none. Over what
is left, the least and the most of any weights are linear programs with integral corners (Picard,
1976), and so is the least that crosses the boundary, a minimum cut.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
from numpy.typing import NDArray

from pipecut.compiler.partition.chain.prefix_sums import Bools, Floats
from pipecut.compiler.partition.load import transfer_seconds
from pipecut.compiler.partition.problem import Problem, TensorUse
from pipecut.compiler.partition.program.solver import quiet_stdout

# Who needs whom is a table of blocks by blocks; with more of them all boundaries are taken alike.
LARGEST_TABLE = 8000
# What a linear program's tolerance may be worth, relative to the whole.
SLACK = 1e-6


@dataclass(frozen=True)
class Limits:
    """The least and the most of a weighted sum over all D."""

    least: float
    largest: float


@dataclass(frozen=True)
class Region:
    """All D of one boundary: limits of each weighted sum, the least bytes and seconds across it.

    `inside` are the blocks in every D, `outside` those in none.
    """

    limits: tuple[Limits, ...]
    bytes_over: float
    seconds_over: float
    inside: Bools
    outside: Bools


def regions(problem: Problem, weights: list[Floats], incumbent: float) -> list[Region]:
    """The region of each boundary 1 .. stages - 1, for placements that beat the incumbent.

    The incumbent is the least bottleneck known, in seconds. Each of
    `weights` has a number for each block.
    """
    count, boundaries = len(problem.blocks), range(1, len(problem.stage_devices))
    if count > LARGEST_TABLE or not np.isfinite(incumbent):
        nothing = np.zeros(count, dtype=bool)
        anywhere = _Cut(problem, nothing, nothing).region(weights, None)
        return [anywhere] * len(boundaries)
    needs = _needs_table(problem).astype(np.float32)
    result = []
    for boundary in boundaries:
        inside, outside = _fixed_blocks(problem, needs, boundary, incumbent)
        result.append(_Cut(problem, inside, outside).region(weights, boundary))
    return result


def _needs_table(problem: Problem) -> Bools:
    """Index [v, u]: v needs u, or is u."""
    table = np.eye(len(problem.blocks), dtype=bool)
    for u, v in sorted(problem.edges, key=lambda edge: edge[1]):
        table[v] |= table[u]
    return table


def _fixed_blocks(
    problem: Problem, needs: NDArray[np.float32], boundary: int, incumbent: float
) -> tuple[Bools, Bools]:
    """The blocks that stand before a boundary, and those that stand after it, in any case.

    A block stands before it when all that does not need the block is too little for the stages
    before, and after it when it and its needs are too much for them.
    """
    stages = len(problem.stage_devices)
    inside, outside = np.zeros((2, len(problem.blocks)), dtype=bool)
    for kind in {device.kind for device in problem.stage_devices}:
        seconds = np.array([block.seconds[kind] for block in problem.blocks])
        total = float(seconds.sum())
        fewest = total - _seconds_within(problem, kind, range(boundary, stages), incumbent)
        largest = _seconds_within(problem, kind, range(boundary), incumbent)
        inside |= total - needs.T @ seconds < fewest - SLACK * total
        outside |= needs @ seconds > largest + SLACK * total
    return inside, outside


def _seconds_within(problem: Problem, kind: str, stages: range, incumbent: float) -> float:
    """Seconds on a kind of device of what these stages can hold, none slower than the incumbent."""
    total = 0.0
    for stage in stages:
        stage_kind = problem.stage_devices[stage].kind
        if stage_kind == kind:
            total += incumbent
            continue
        # At best the stage holds the blocks whose seconds grow most from its kind to the other.
        rates = (
            block.seconds[kind] / block.seconds[stage_kind]
            if block.seconds[stage_kind]
            else float("inf")
            for block in problem.blocks
            if block.seconds[kind]
        )
        total += incumbent * max(rates, default=0.0)
    return total


class _Cut:
    """Linear programs over D, with a variable for each block that is neither inside nor outside."""

    def __init__(self, problem: Problem, inside: Bools, outside: Bools) -> None:
        self.problem, self.inside, self.outside = problem, inside, outside
        self.free = np.flatnonzero(~inside & ~outside)
        self.column_of = {int(block): column for column, block in enumerate(self.free)}
        self.highs = self._closures()

    def _closures(self) -> Any:
        """y[v] <= y[u] for every edge u -> v, y = 1 for the blocks of D."""
        with quiet_stdout():
            highs: Any = highspy.Highs()  # type: ignore[no-untyped-call]
        highs.setOptionValue("output_flag", False)
        for _ in self.free:
            highs.addVar(0.0, 1.0)
        for u, v in sorted(self.problem.edges):
            if u in self.column_of and v in self.column_of:
                columns = np.array([self.column_of[v], self.column_of[u]], dtype=np.int32)
                highs.addRow(-highspy.kHighsInf, 0.0, 2, columns, np.array([1.0, -1.0]))
        return highs

    def region(self, weights: list[Floats], boundary: int | None) -> Region:
        """The region of a boundary; None for any boundary, across which nothing need go."""
        limits = tuple(self._limits(weight) for weight in weights)
        may_cross = self.problem.comm == "relay" and self.inside.any() and self.outside.any()
        if boundary is None or not may_cross:
            return Region(limits, 0.0, 0.0, self.inside, self.outside)
        nothing = np.zeros(len(self.free))
        self.highs.changeColsCost(len(self.free), self._columns(), nothing)
        link = boundary - 1
        bytes_over = self._least_over(lambda tensor: tensor.forward_bytes)
        seconds_over = self._least_over(lambda tensor: transfer_seconds(self.problem, tensor, link))
        return Region(limits, bytes_over, seconds_over, self.inside, self.outside)

    def _columns(self) -> Any:
        return np.arange(len(self.free), dtype=np.int32)

    def _limits(self, weight: Floats) -> Limits:
        fixed = float(weight[self.inside].sum())
        least = self._least(weight[self.free])
        largest = -1.0 * self._least(-1.0 * weight[self.free])
        return Limits(fixed + least - SLACK, fixed + largest + SLACK)

    def _least(self, costs: Floats) -> float:
        if not len(self.free):
            return 0.0
        self.highs.changeColsCost(len(self.free), self._columns(), costs)
        self.highs.run()
        return float(self.highs.getInfo().objective_function_value)

    def _least_over(self, amount: Callable[[TensorUse], float]) -> float:
        """The least sum of an amount over the tensors across the boundary.

        A variable for each tensor that may cross it: cross >= y[source] - y[consumer].
        """
        columns, rows, certain = len(self.free), self.highs.getNumRow(), 0.0
        for tensor in self.problem.tensors:
            size = amount(tensor)
            # From a block that may stand before the boundary to those that may stand after it.
            later = [consumer for consumer in tensor.consumers if not self.inside[consumer]]
            if not size or self.outside[tensor.source] or not later:
                continue
            is_wanted = any(self.outside[consumer] for consumer in later)
            if self.inside[tensor.source] and is_wanted:
                certain += size
                continue
            none = np.array([], dtype=np.int32)
            self.highs.addCol(size, 0.0, 1.0, 0, none, np.array([]))
            self._add_rows(columns, tensor.source, [None] if is_wanted else later)
            columns += 1
        self.highs.run()
        least = certain
        if columns:
            least += float(self.highs.getInfo().objective_function_value)
        self._forget(rows)
        return max(0.0, least * (1 - SLACK))

    def _add_rows(self, column: int, source: int, consumers: list[int] | list[None]) -> None:
        """A row for each consumer; None for one that stands after the boundary in any case."""
        for consumer in consumers:
            terms, least = {column: 1.0}, 0.0
            if self.inside[source]:
                least = 1.0
            else:
                terms[self.column_of[source]] = -1.0
            if consumer is not None:
                terms[self.column_of[consumer]] = 1.0
            names, values = np.array(list(terms), dtype=np.int32), np.array(list(terms.values()))
            self.highs.addRow(least, highspy.kHighsInf, len(terms), names, values)

    def _forget(self, rows: int) -> None:
        """Delete the tensors' columns and rows: the next objective begins without them."""
        first, last = len(self.free), self.highs.getNumCol()
        if last > first:
            self.highs.deleteCols(last - first, np.arange(first, last, dtype=np.int32))
        last = self.highs.getNumRow()
        if last > rows:
            self.highs.deleteRows(last - rows, np.arange(rows, last, dtype=np.int32))
