"""Lower bounds on the bottleneck that need no solver."""

import numpy as np
import pulp

from pipecut.compiler.partition.problem import Problem


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
    model.solve(pulp.HiGHS(msg=False, threads=1))
    # The solver's own tolerance must not lift a bound.
    return max(0.0, float(bottleneck.value() or 0.0) * scale * (1 - 1e-7))
