"""Lower bounds on the bottleneck from small linear programs, for problems too large for the whole one."""

from typing import Any

import highspy
import numpy as np
import pulp

from pipecut.compiler.partition.problem import Problem
from pipecut.compiler.partition.room import Floats
from pipecut.compiler.partition.solver import quiet_stdout, solve_quietly

# Slopes at which the region of prefixes is enclosed, relative to that of the whole problem.
SLOPES = (0.8, 1.0, 1.25)
# What a linear program's tolerance may be worth, relative to the whole.
SLACK = 1e-6


def work_bound(problem: Problem) -> float:
    """No placement beats all work spread evenly over the stages, nor a single block at its fastest.

    On unequal devices evenly is a linear program: which share of each block each kind of device takes. Blocks of the same
    seconds on every kind up to a factor are one row of it.
    """
    kinds = sorted({slot.kind for slot in problem.slots})
    largest = max((min(block.seconds[k] for k in kinds) for block in problem.blocks), default=0.0)
    if len(kinds) == 1:
        return max(largest, sum(b.seconds[kinds[0]] for b in problem.blocks) / len(problem.slots))
    return max(largest, _spread(problem, kinds))


def _spread(problem: Problem, kinds: list[str]) -> float:
    count = {kind: sum(slot.kind == kind for slot in problem.slots) for kind in kinds}
    seconds = np.array([[block.seconds[k] for k in kinds] for block in problem.blocks])
    total = seconds.sum(axis=1)
    shapes: dict[tuple[float, ...], float] = {}
    for row, weight in zip(seconds, total, strict=True):
        if weight > 0:
            # Rounded down, so that merging rows only lowers the bound.
            shape = tuple(float(np.floor(x / weight * 1e6) / 1e6) for x in row)
            shapes[shape] = shapes.get(shape, 0.0) + float(weight)
    model = pulp.LpProblem("spread", pulp.LpMinimize)
    bottleneck = pulp.LpVariable("T", 0)
    model += bottleneck
    share = {(r, k): pulp.LpVariable(f"share_{r}_{k}", 0) for r in range(len(shapes)) for k in range(len(kinds))}
    for r in range(len(shapes)):
        model += pulp.lpSum(share[r, k] for k in range(len(kinds))) == 1
    scale = float(total.sum()) or 1.0
    for k, kind in enumerate(kinds):
        work = [shape[k] * weight / scale * share[r, k] for r, (shape, weight) in enumerate(shapes.items())]
        model += pulp.lpSum(work) <= count[kind] * bottleneck
    solve_quietly(model)
    # The solver's own tolerance must not lift a bound.
    return max(0.0, float(bottleneck.value() or 0.0) * scale * (1 - 1e-7))


def memory_bound(problem: Problem) -> float:
    """No placement beats the best fractional one in which every stage keeps within its memory.

    What stands on stages 0..s is a set D that holds all that its members need. D's seconds, kept bytes and parameter bytes are
    not free of each other: for any weights w the least and the most of w over all such sets are linear programs with
    integral corners (closures; Picard, 1976). They enclose the region of all D. Then the differences of
    neighbouring prefixes are the stages, and a program with a few variables a stage bounds the slowest. Transfers, received
    tensors, transients and parameters with several users are left out, which only lowers it. Zero, which bounds nothing,
    when that program has no answer.
    """
    kinds = sorted({slot.kind for slot in problem.slots})
    parameters = np.zeros(len(problem.blocks))
    for shared in problem.shared:
        if len(shared.users) == 1:
            parameters[shared.users[0]] += shared.bytes
    rows = [np.array([block.seconds[kind] for block in problem.blocks]) for kind in kinds]
    rows += [np.array([float(block.saved_bytes) for block in problem.blocks]), parameters]
    totals = [float(row.sum()) or 1.0 for row in rows]
    shares = [row / total for row, total in zip(rows, totals, strict=True)]
    combinations = _combinations(problem, len(kinds), totals[-2], totals[-1])
    limits = _closures(problem, [np.array(cs) @ np.array(shares) for cs in combinations])
    model = pulp.LpProblem("memory", pulp.LpMinimize)
    bottleneck = pulp.LpVariable("T", 0)
    model += bottleneck
    stages = range(len(problem.slots))
    prefix = [
        [0, *(pulp.LpVariable(f"q_{q}_{s}", 0, 1) for s in stages[1:]), 1 if rows[q].any() else 0] for q in range(len(rows))
    ]
    for s in stages:
        slot = problem.slots[s]
        here = [row[s + 1] - row[s] for row in prefix]
        for part in here:
            model += part >= 0
        model += totals[kinds.index(slot.kind)] / totals[0] * here[kinds.index(slot.kind)] <= bottleneck
        room = max(slot.capacity, 1)
        model += slot.in_flight * totals[-2] / room * here[-2] + totals[-1] / room * here[-1] <= 1
        for cs, (least, most) in zip(combinations, limits, strict=True) if s else ():
            mixed = pulp.lpSum(c * row[s] for c, row in zip(cs, prefix, strict=True))
            model += mixed >= least
            model += mixed <= most
    solve_quietly(model)
    if model.sol_status != pulp.LpSolutionOptimal:
        return 0.0
    return max(0.0, float(bottleneck.value() or 0.0) * totals[0] * (1 - SLACK))


def _combinations(problem: Problem, kinds: int, kept: float, parameters: float) -> list[tuple[float, ...]]:
    """Weights of (seconds by kind, kept, parameters): each beside the first kind's seconds, and some stages' mix of bytes."""
    result = []
    for slope in SLOPES:
        for other in range(1, kinds + 2):
            result.append((-slope, *(1.0 if other == q else 0.0 for q in range(1, kinds + 2))))
    for slot in problem.slots[:: max(1, len(problem.slots) // 6)]:
        total = slot.in_flight * kept + parameters
        mix = (slot.in_flight * kept / total, parameters / total) if total else (0.0, 0.0)
        result.append((-1.0, *(0.0,) * (kinds - 1), *mix))
    return result


def _closures(problem: Problem, weights: list[Floats]) -> list[tuple[float, float]]:
    """The least and the most of each weight over all sets that hold what their members need."""
    count = len(problem.blocks)
    with quiet_stdout():
        highs: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    highs.setOptionValue("output_flag", False)
    for _ in range(count):
        highs.addVar(0.0, 1.0)
    for u, v in sorted(problem.edges):
        highs.addRow(-highspy.kHighsInf, 0.0, 2, np.array([v, u], dtype=np.int32), np.array([1.0, -1.0]))
    index = np.arange(count, dtype=np.int32)
    result = []
    for weight in weights:
        ends = []
        for sign in (1.0, -1.0):
            highs.changeColsCost(count, index, sign * weight)
            highs.run()
            ends.append(sign * highs.getInfo().objective_function_value)
        result.append((ends[0] - SLACK, ends[1] + SLACK))
    return result
