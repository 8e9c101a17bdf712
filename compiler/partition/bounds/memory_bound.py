"""A lower bound from memory, for problems too large for the whole integer program.

What stands before a boundary has seconds, saved bytes and parameter bytes that are not free of each
other (`regions.py`). The differences of neighbouring boundaries are the stages, each of which
recomputes or does not, and a program with a few variables per stage bounds the slowest. A stage
receives no less, and spends no less on transfers, than the least that crosses its boundaries.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pulp

from pipecut.compiler.partition.bounds.amounts import Quantities
from pipecut.compiler.partition.bounds.regions import SLACK, Region, regions
from pipecut.compiler.partition.chain.prefix_sums import Floats
from pipecut.compiler.partition.problem import Problem, StageDevice
from pipecut.compiler.partition.program.solver import solve_bounded

# Slopes at which a region is enclosed, relative to that of the whole problem.
SLOPES = (0.8, 1.0, 1.25)
# About so many stages' mixes of bytes are directions in which regions are enclosed.
MIXES = 6
# Seconds for the program over prefixes, which has a binary variable per stage.
PROGRAM_SECONDS = 5.0


def memory_bound(problem: Problem, incumbent: float = float("inf")) -> float:
    """No placement that beats the `incumbent` beats the best fractional one that fits every device.

    The incumbent is the least bottleneck known, in seconds.

    Parameters with several users are left out, which only lowers it. Zero, which bounds nothing,
    when the program has no answer, and for several stages on a device.
    """
    if problem.devices:
        return 0.0
    quantities = Quantities(tuple(problem.kinds))
    rows = quantities.of_blocks(problem)
    totals = [float(row.sum()) or 1.0 for row in rows]
    relative = np.array([row / total for row, total in zip(rows, totals, strict=True)])
    directions = _directions(problem, quantities, rows, totals)
    weights = [np.array(direction) @ relative for direction in directions]
    program = _PrefixProgram(problem, quantities, totals, [bool(row.any()) for row in rows])
    return program.solve(directions, regions(problem, weights, incumbent))


def _directions(
    problem: Problem, quantities: Quantities, rows: list[Floats], totals: list[float]
) -> list[tuple[float, ...]]:
    """Weights of the quantities, in whose sums the regions are enclosed.

    Each quantity alone, each beside the seconds on the first kind at some slopes, and the mix of
    bytes of some stages.
    """
    count = quantities.count
    present = [q for q in range(count) if rows[q].any()]

    def only(quantity: int) -> list[float]:
        return [1.0 if row == quantity else 0.0 for row in range(count)]

    directions = [tuple(only(quantity)) for quantity in present]
    for slope in SLOPES:
        directions += [(-slope, *only(quantity)[1:]) for quantity in present[1:]]
    for device in problem.stage_devices[:: max(1, len(problem.stage_devices) // MIXES)]:
        saved = device.in_flight * totals[quantities.saved]
        total = saved + totals[quantities.parameters]
        mix = [-1.0, *only(0)[1:]]
        if total:
            mix[quantities.saved] = saved / total
            mix[quantities.parameters] = totals[quantities.parameters] / total
        directions.append(tuple(mix))
    return directions


@dataclass(frozen=True)
class _StageShares:
    """Of each quantity, the part on a stage; if it does not recompute, and if it does."""

    total: list[Any]
    plain: list[Any]
    recomputing: list[Any]


class _PrefixProgram:
    """Minimise T over the part q[i, s] of each quantity i that stands before stage s.

    A stage's parts are q[i, s+1] - q[i, s], divided into those it has when it recomputes and when
    it does not, of which one is nothing. Amounts are relative to `totals`.
    """

    def __init__(
        self,
        problem: Problem,
        quantities: Quantities,
        totals: list[float],
        present: list[bool],
    ) -> None:
        self.problem, self.quantities, self.totals = problem, quantities, totals
        self.model: Any = pulp.LpProblem("memory", pulp.LpMinimize)
        self.bottleneck: Any = self.model.add_variable("T", 0)
        self.model += self.bottleneck
        stages = range(1, len(problem.stage_devices))
        self.prefix = [
            [
                0,
                *(self.model.add_variable(f"q_{i}_{s}", 0, 1) for s in stages),
                1 if present[i] else 0,
            ]
            for i in range(quantities.count)
        ]

    def solve(self, directions: list[tuple[float, ...]], between: list[Region]) -> float:
        """The bound, with a region per boundary."""
        nothing = np.zeros(len(self.problem.blocks), dtype=bool)
        first = Region((), 0.0, 0.0, nothing, ~nothing)
        last = Region((), 0.0, 0.0, ~nothing, nothing)
        boundaries = [first, *between, last]
        for stage in range(len(self.problem.stage_devices)):
            self._add_stage(stage, boundaries[stage], boundaries[stage + 1])
            self._enclose(stage, directions, boundaries[stage])
        bound = solve_bounded(self.model, PROGRAM_SECONDS) * self.totals[0] * (1 - SLACK)
        return max(0.0, bound)

    def _enclose(self, stage: int, directions: list[tuple[float, ...]], region: Region) -> None:
        """What stands before a stage keeps within its region's limits in every direction."""
        for direction, limits in zip(directions, region.limits, strict=False):
            mixed = pulp.lpSum(
                weight * row[stage]
                for weight, row in zip(direction, self.prefix, strict=True)
                if weight
            )
            self.model += mixed >= limits.least
            self.model += mixed <= limits.largest

    def _add_stage(self, stage: int, before: Region, after: Region) -> None:
        device = self.problem.stage_devices[stage]
        recompute: Any = {"never": 0, "always": 1}.get(self.problem.recompute)
        if recompute is None:
            recompute = self.model.add_variable(f"recompute_{stage}", cat="Binary")
        shares = self._shares(stage, recompute)
        self._limit_seconds(device, shares, before.seconds_over + after.seconds_over)
        only_here = np.flatnonzero(before.outside & after.inside)
        blocks = self.problem.blocks
        transient = max((blocks[v].transient_bytes for v in only_here), default=0)
        least = device.in_flight * before.bytes_over + transient
        self._limit_bytes(device, shares, least, recompute)

    def _shares(self, stage: int, recompute: Any) -> _StageShares:
        parts = [row[stage + 1] - row[stage] for row in self.prefix]
        recomputing = [
            self.model.add_variable(f"again_{i}_{stage}", 0, 1) for i in range(len(parts))
        ]
        for part, share in zip(parts, recomputing, strict=True):
            self.model += share <= part
            self.model += share <= recompute
            self.model += part - share <= 1 - recompute
        plain = [part - share for part, share in zip(parts, recomputing, strict=True)]
        return _StageShares(parts, plain, recomputing)

    def _limit_seconds(self, device: StageDevice, shares: _StageShares, transfers: float) -> None:
        """seconds + forward seconds where it recomputes + transfers <= T, all over totals[0]."""
        totals = self.totals
        work = self.quantities.seconds(device.kind)
        forward = self.quantities.forward_seconds(device.kind)
        seconds = [
            totals[work] / totals[0] * shares.total[work],
            totals[forward] / totals[0] * shares.recomputing[forward],
        ]
        self.model += pulp.lpSum(seconds) + transfers / totals[0] <= self.bottleneck

    def _limit_bytes(
        self, device: StageDevice, shares: _StageShares, least: float, recompute: Any
    ) -> None:
        """saved + parameters + what it holds in any case <= capacity, for either choice."""
        capacity = max(device.capacity, 1)
        saved = self.totals[self.quantities.saved] / capacity
        parameters = self.totals[self.quantities.parameters] / capacity
        choices = ((False, shares.plain, 1 - recompute), (True, shares.recomputing, recompute))
        for choice, share, chosen in choices:
            microbatches = device.saved_microbatches(choice)
            self.model += (
                microbatches * saved * share[self.quantities.saved]
                + parameters * share[self.quantities.parameters]
                + least / capacity * chosen
                <= chosen
            )
