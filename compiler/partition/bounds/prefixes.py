"""What may stand on the stages before each boundary.

The blocks before a boundary are a set D that holds all that its members need: a closure. A placement that beats a known
bottleneck U leaves no more than U on any stage, so that D has neither too few seconds nor too many; and then some blocks are
in every such D and some in none. Over what is left, the least and the most of any weights are linear programs with integral
corners (Picard, 1976), and so is the least that crosses the boundary, a minimum cut.
"""

from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np

from pipecut.compiler.partition.chain.windows import Bools, Floats
from pipecut.compiler.partition.load import transfer_seconds
from pipecut.compiler.partition.problem import Problem
from pipecut.compiler.partition.program.solver import quiet_stdout

# Who needs whom is a table of blocks by blocks; for more of them all boundaries are taken alike.
LARGEST_TABLE = 8000
# What a linear program's tolerance may be worth, relative to the whole.
SLACK = 1e-6


@dataclass(frozen=True)
class Region:
    """Of one boundary: for each weight its least and most over all D, the least bytes and seconds over it, who is in or out."""

    limits: tuple[tuple[float, float], ...]
    bytes_over: float
    seconds_over: float
    inside: Bools
    outside: Bools


def regions(problem: Problem, weights: list[Floats], most: float) -> list[Region]:
    """The region of each boundary 1 .. stages - 1. `weights` have a number for each block; `most` is the bottleneck to beat."""
    count, boundaries = len(problem.blocks), range(1, len(problem.stage_devices))
    if count > LARGEST_TABLE or not np.isfinite(most):
        nothing = np.zeros(count, dtype=bool)
        return [_region(problem, weights, nothing, nothing, None)] * len(boundaries)
    needs = _needs_table(problem).astype(np.float32)
    result = []
    for boundary in boundaries:
        inside, outside = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        for kind in {slot.kind for slot in problem.stage_devices}:
            seconds = np.array([block.seconds[kind] for block in problem.blocks])
            total = float(seconds.sum())
            fewest = total - _at_most(
                problem, kind, range(boundary, len(problem.stage_devices)), most
            )
            largest = _at_most(problem, kind, range(boundary), most)
            inside |= total - needs.T @ seconds < fewest - SLACK * total
            outside |= needs @ seconds > largest + SLACK * total
        result.append(_region(problem, weights, inside, outside, boundary))
    return result


def _needs_table(problem: Problem) -> Bools:
    """Index [v, u]: v needs u, or is u."""
    count = len(problem.blocks)
    table = np.eye(count, dtype=bool)
    for u, v in sorted(problem.edges, key=lambda edge: edge[1]):
        table[v] |= table[u]
    return table


def _at_most(problem: Problem, kind: str, stages: range, most: float) -> float:
    """Seconds on a kind of device of what those stages can hold, each no slower than `most`."""
    total = 0.0
    for stage in stages:
        own = problem.stage_devices[stage].kind
        pairs = (
            [(b.seconds[kind], b.seconds[own]) for b in problem.blocks if b.seconds[kind]]
            if own != kind
            else [(1.0, 1.0)]
        )
        total += most * max((a / b if b else float("inf") for a, b in pairs), default=0.0)
    return total


def _region(
    problem: Problem, weights: list[Floats], inside: Bools, outside: Bools, boundary: int | None
) -> Region:
    """The linear programs over the blocks that are neither in nor out."""
    free = np.flatnonzero(~inside & ~outside)
    at = {int(v): i for i, v in enumerate(free)}
    with quiet_stdout():
        highs: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    highs.setOptionValue("output_flag", False)
    for _ in free:
        highs.addVar(0.0, 1.0)
    for u, v in sorted(problem.edges):
        if u in at and v in at:
            highs.addRow(
                -highspy.kHighsInf,
                0.0,
                2,
                np.array([at[v], at[u]], dtype=np.int32),
                np.array([1.0, -1.0]),
            )
    limits = []
    index = np.arange(len(free), dtype=np.int32)
    for weight in weights:
        fixed = float(weight[inside].sum())
        ends = []
        for sign in (1.0, -1.0):
            if len(free):
                highs.changeColsCost(len(free), index, sign * weight[free])
                highs.run()
            ends.append(sign * highs.getInfo().objective_function_value if len(free) else 0.0)
        limits.append((fixed + ends[0] - SLACK, fixed + ends[1] + SLACK))
    if boundary is None or problem.comm != "relay" or not inside.any() or not outside.any():
        return Region(tuple(limits), 0.0, 0.0, inside, outside)
    highs.changeColsCost(len(free), index, np.zeros(len(free)))
    over = [
        _least_over(highs, problem, at, inside, outside, seconds, boundary)
        for seconds in (False, True)
    ]
    return Region(tuple(limits), over[0], over[1], inside, outside)


def _least_over(
    highs: Any,
    problem: Problem,
    at: dict[int, int],
    inside: Bools,
    outside: Bools,
    seconds: bool,
    boundary: int,
) -> float:
    """The least bytes, or seconds on its link, of the tensors over a boundary: a variable for each tensor that may cross it."""
    columns, rows, constant = len(at), highs.getNumRow(), 0.0
    for tensor in problem.tensors:
        amount = (
            transfer_seconds(problem, tensor, boundary - 1) if seconds else tensor.forward_bytes
        )
        # From a block that may stand before the boundary to those that may stand after it.
        later = [c for c in tensor.consumers if not inside[c]]
        if not amount or outside[tensor.source] or not later:
            continue
        beyond = any(outside[c] for c in later)
        if inside[tensor.source] and beyond:
            constant += amount
            continue
        highs.addCol(amount, 0.0, 1.0, 0, np.array([], dtype=np.int32), np.array([]))
        column = columns
        columns += 1
        for consumer in [None] if beyond else later:
            # cross >= y[source] - y[consumer], where y is 1 for what is in and 0 for what is out.
            terms = {column: 1.0}
            right = 0.0
            if inside[tensor.source]:
                right = 1.0
            else:
                terms[at[tensor.source]] = -1.0
            if consumer is not None:
                terms[at[consumer]] = 1.0
            highs.addRow(
                right,
                highspy.kHighsInf,
                len(terms),
                np.array(list(terms), dtype=np.int32),
                np.array(list(terms.values())),
            )
    highs.run()
    least = constant + float(highs.getInfo().objective_function_value) if columns else constant
    # The next objective begins without these tensors.
    for count, of, delete in (
        (len(at), columns, highs.deleteCols),
        (rows, highs.getNumRow(), highs.deleteRows),
    ):
        if of > count:
            delete(of - count, np.arange(count, of, dtype=np.int32))
    return max(0.0, least * (1 - SLACK))
