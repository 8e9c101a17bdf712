"""Lower bounds on the bottleneck from small linear programs, for problems too large for the whole one."""

from typing import Any

import numpy as np
import pulp

from pipecut.compiler.partition.bounds.prefixes import SLACK, Region, regions
from pipecut.compiler.partition.chain.windows import Floats, rows_of_blocks
from pipecut.compiler.partition.problem import Problem
from pipecut.compiler.partition.program.solver import solve_bounded, solve_quietly

# Slopes at which the region of prefixes is enclosed, relative to that of the whole problem.
SLOPES = (0.8, 1.0, 1.25)
# Seconds for the program over prefixes, which has a binary a stage.
MASTER_SECONDS = 5.0


def work_bound(problem: Problem) -> float:
    """No placement beats all work spread evenly over the devices, nor a single block at its fastest.

    On unequal devices evenly is a linear program: which share of each block each kind of device takes. Blocks of the same
    seconds on every kind up to a factor are one row of it.
    """
    kinds = sorted({slot.kind for slot in problem.stage_devices})
    largest = max((min(block.seconds[k] for k in kinds) for block in problem.blocks), default=0.0)
    if len(kinds) == 1:
        # What stages make for themselves is made at least once.
        work = sum(b.seconds[kinds[0]] for b in problem.blocks)
        work += sum(s.seconds.get(kinds[0], 0.0) for s in problem.shared)
        return max(largest, work / len(set(problem.device_of)))
    return max(largest, _spread(problem, kinds))


def _spread(problem: Problem, kinds: list[str]) -> float:
    kind_of = dict(
        zip(problem.device_of, (slot.kind for slot in problem.stage_devices), strict=True)
    )
    count = {kind: list(kind_of.values()).count(kind) for kind in kinds}
    seconds = np.array([[block.seconds[k] for k in kinds] for block in problem.blocks])
    total = seconds.sum(axis=1)
    shapes: dict[tuple[float, ...], float] = {}
    for row, weight in zip(seconds, total, strict=True):
        if weight > 0:
            # Rounded down, so that merging rows only lowers the bound.
            shape = tuple(float(np.floor(x / weight * 1e6) / 1e6) for x in row)
            shapes[shape] = shapes.get(shape, 0.0) + float(weight)
    model = pulp.LpProblem("spread", pulp.LpMinimize)
    bottleneck = model.add_variable("T", 0)
    model += bottleneck
    share = {
        (r, k): model.add_variable(f"share_{r}_{k}", 0)
        for r in range(len(shapes))
        for k in range(len(kinds))
    }
    for r in range(len(shapes)):
        model += pulp.lpSum(share[r, k] for k in range(len(kinds))) == 1
    scale = float(total.sum()) or 1.0
    for k, kind in enumerate(kinds):
        work = [
            shape[k] * weight / scale * share[r, k]
            for r, (shape, weight) in enumerate(shapes.items())
        ]
        model += pulp.lpSum(work) <= count[kind] * bottleneck
    solve_quietly(model)
    # The solver's own tolerance must not lift a bound.
    return max(0.0, float(bottleneck.value() or 0.0) * scale * (1 - 1e-7))


def memory_bound(problem: Problem, most: float = float("inf")) -> float:
    """No placement that beats `most` seconds beats the best fractional one in which every device keeps within its memory.

    What stands before a boundary has seconds, saved bytes and parameter bytes that are not free of each other
    (`prefixes.py`). The differences of neighbouring prefixes are the stages, each of which recomputes or does not, and a
    program with a few variables a stage bounds the slowest. A stage receives no less, and spends no less on transfers, than
    the least that crosses its boundaries. Parameters with several users are left out, which only lowers it. Zero, which
    bounds nothing, when that program has no answer; not for several stages on a device.
    """
    if problem.devices:
        return 0.0
    kinds = sorted({slot.kind for slot in problem.stage_devices})
    rows = rows_of_blocks(problem, kinds)
    totals = [float(row.sum()) or 1.0 for row in rows]
    shares = [row / total for row, total in zip(rows, totals, strict=True)]
    combinations = _combinations(problem, rows, totals)
    found = regions(problem, [np.array(cs) @ np.array(shares) for cs in combinations], most)
    return _Master(problem, kinds, totals, [bool(row.any()) for row in rows]).solve(
        combinations, found
    )


class _Master:
    """The program over prefixes. Amounts are relative to `totals`: seconds by kind, forward by kind, saved, parameters."""

    def __init__(
        self, problem: Problem, kinds: list[str], totals: list[float], some: list[bool]
    ) -> None:
        self.problem, self.kinds, self.totals = problem, kinds, totals
        self.model: Any = pulp.LpProblem("memory", pulp.LpMinimize)
        self.bottleneck: Any = self.model.add_variable("T", 0)
        self.model += self.bottleneck
        stages = range(len(problem.stage_devices))
        self.prefix = [
            [
                0,
                *(self.model.add_variable(f"q_{q}_{s}", 0, 1) for s in stages[1:]),
                1 if some[q] else 0,
            ]
            for q in range(len(totals))
        ]

    def solve(self, combinations: list[tuple[float, ...]], found: list[Region]) -> float:
        nothing = np.zeros(len(self.problem.blocks), dtype=bool)
        ends = [
            Region((), 0.0, 0.0, nothing, ~nothing),
            *found,
            Region((), 0.0, 0.0, ~nothing, nothing),
        ]
        for s in range(len(self.problem.stage_devices)):
            self._stage(s, ends[s], ends[s + 1])
            for cs, (least, most) in zip(combinations, ends[s].limits, strict=False):
                mixed = pulp.lpSum(c * row[s] for c, row in zip(cs, self.prefix, strict=True) if c)
                self.model += mixed >= least
                self.model += mixed <= most
        return max(0.0, solve_bounded(self.model, MASTER_SECONDS) * self.totals[0] * (1 - SLACK))

    def _stage(self, s: int, left: Region, right: Region) -> None:
        """A stage is split into what it is when it recomputes and when it does not, of which one is nothing."""
        problem, slot, totals = self.problem, self.problem.stage_devices[s], self.totals
        recompute: Any = {"never": 0, "always": 1}.get(problem.recompute)
        if recompute is None:
            recompute = self.model.add_variable(f"recompute_{s}", cat="Binary")
        again = [self.model.add_variable(f"again_{q}_{s}", 0, 1) for q in range(len(totals))]
        here = [row[s + 1] - row[s] for row in self.prefix]
        for part, other in zip(here, again, strict=True):
            self.model += other <= part
            self.model += other <= recompute
            self.model += part - other <= 1 - recompute
        kind = self.kinds.index(slot.kind)
        forward = len(self.kinds) + kind
        transfers = (left.seconds_over + right.seconds_over) / totals[0]
        seconds = [
            totals[kind] / totals[0] * here[kind],
            totals[forward] / totals[0] * again[forward],
        ]
        self.model += pulp.lpSum(seconds) + transfers <= self.bottleneck
        own = np.flatnonzero(left.outside & right.inside)
        transient = max((problem.blocks[v].transient_bytes for v in own), default=0)
        room = max(slot.capacity, 1)
        saved, parameters = totals[-2] / room, totals[-1] / room
        least = (slot.in_flight * left.bytes_over + transient) / room
        plain = [here[q] - again[q] for q in (-2, -1)]
        self.model += (
            slot.in_flight * saved * plain[0] + parameters * plain[1] + least * (1 - recompute)
            <= 1 - recompute
        )
        self.model += (
            slot.saved_microbatches(True) * saved * again[-2]
            + parameters * again[-1]
            + least * recompute
            <= recompute
        )


def _combinations(
    problem: Problem, rows: list[Floats], totals: list[float]
) -> list[tuple[float, ...]]:
    """Weights of the rows: each alone and beside the first kind's seconds, and some stages' mix of bytes."""
    count = len(rows)
    some = [q for q in range(count) if rows[q].any()]
    result = [tuple(1.0 if other == q else 0.0 for other in range(count)) for q in some]
    for slope in SLOPES:
        for q in some[1:]:
            result.append((-slope, *(1.0 if other == q else 0.0 for other in range(1, count))))
    for slot in problem.stage_devices[:: max(1, len(problem.stage_devices) // 6)]:
        total = slot.in_flight * totals[-2] + totals[-1]
        mix = (slot.in_flight * totals[-2] / total, totals[-1] / total) if total else (0.0, 0.0)
        result.append((-1.0, *(0.0,) * (count - 3), *mix))
    return result
