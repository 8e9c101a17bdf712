"""No placement beats all work spread evenly over the devices, nor a single block at its fastest."""

from collections import Counter

import numpy as np
import pulp

from pipecut.compiler.partition.chain.prefix_sums import Floats
from pipecut.compiler.partition.problem import Problem
from pipecut.compiler.partition.program.solver import solve_quietly

# The solver's own tolerance must not lift a bound.
TOLERANCE = 1e-7


def work_bound(problem: Problem) -> float:
    """The seconds of the slowest device if blocks could be divided."""
    kinds = problem.kinds
    fastest = (min(block.seconds[kind] for kind in kinds) for block in problem.blocks)
    largest = max(fastest, default=0.0)
    if len(kinds) > 1:
        return max(largest, _spread_seconds(problem))
    # What stages compute for themselves is computed at least once.
    work = sum(block.seconds[kinds[0]] for block in problem.blocks)
    work += sum(shared.seconds.get(kinds[0], 0.0) for shared in problem.shared)
    return max(largest, work / len(set(problem.device_of)))


def _spread_seconds(problem: Problem) -> float:
    """On unequal devices, a linear program: the share of each block that each kind takes.

    Minimise T with, for each kind k,

        sum_r seconds[r, k] share[r, k] <= (devices of kind k) T        sum_k share[r, k] = 1

    where blocks of the same seconds on every kind, up to a factor, are one row r.
    """
    kinds = problem.kinds
    seconds = np.array([[block.seconds[kind] for kind in kinds] for block in problem.blocks])
    weight_of = _weight_of_shapes(seconds)
    shapes, scale = list(weight_of), float(seconds.sum(axis=1).sum()) or 1.0
    model = pulp.LpProblem("spread", pulp.LpMinimize)
    bottleneck = model.add_variable("T", 0)
    model += bottleneck
    share = {
        (row, kind): model.add_variable(f"share_{row}_{at}", 0)
        for row in range(len(shapes))
        for at, kind in enumerate(kinds)
    }
    for row in range(len(shapes)):
        model += pulp.lpSum(share[row, kind] for kind in kinds) == 1
    kind_of = dict(
        zip(problem.device_of, (device.kind for device in problem.stage_devices), strict=True)
    )
    devices = Counter(kind_of.values())
    for at, kind in enumerate(kinds):
        work = [
            shape[at] * weight_of[shape] / scale * share[row, kind]
            for row, shape in enumerate(shapes)
        ]
        model += pulp.lpSum(work) <= devices[kind] * bottleneck
    solve_quietly(model)
    return max(0.0, float(bottleneck.value() or 0.0) * scale * (1 - TOLERANCE))


def _weight_of_shapes(seconds: Floats) -> dict[tuple[float, ...], float]:
    """Seconds of the blocks by the part that each kind of device has of them; a row per block."""
    weight_of: dict[tuple[float, ...], float] = {}
    for row, weight in zip(seconds, seconds.sum(axis=1), strict=True):
        if weight > 0:
            # Rounded down to six digits, so that merging rows only lowers the bound.
            shape = tuple(float(np.floor(x / weight * 1e6) / 1e6) for x in row)
            weight_of[shape] = weight_of.get(shape, 0.0) + float(weight)
    return weight_of
