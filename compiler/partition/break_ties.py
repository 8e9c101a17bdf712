"""Among placements with one bottleneck: the one that moves the fewest bytes.

Of those, the one that fills memory most evenly. Small problems ask the integer program twice more
with the bottleneck fixed. Larger ones cut again the order that their placement makes, now for the
fewest bytes (chain/fewest_bytes.py).
"""

from typing import Literal

import pulp

from pipecut.compiler.partition.chain.fewest_bytes import fewest_bytes
from pipecut.compiler.partition.load import bottleneck, moved_bytes
from pipecut.compiler.partition.memory import fits, fullest
from pipecut.compiler.partition.problem import Problem, Stages
from pipecut.compiler.partition.program.program import build
from pipecut.compiler.partition.program.solver import Limits, solve
from pipecut.compiler.partition.program.start import start_values
from pipecut.compiler.partition.program.variables import Program

# Up to so many block-stage pairs the integer program breaks ties.
LARGEST_PROGRAM = 2500
# Seconds for each of its two questions; with less than LEAST_SECONDS they are not asked.
SECONDS, LEAST_SECONDS = 1.0, 0.2
# Relative differences below this are no differences.
EQUAL = 1e-9
GAP = 1e-6

Aim = Literal["bytes", "balance"]


def break_ties(
    problem: Problem, stages: Stages, solver: str, time_limit: float = 2 * SECONDS
) -> Stages:
    """A placement as fast, better in bytes and balance where one is found; limit in seconds."""
    if len(problem.blocks) * len(problem.stage_devices) > LARGEST_PROGRAM:
        cut = fewest_bytes(problem, stages, bottleneck(problem, stages) * (1 + EQUAL))
        return cut if cut is not None and _is_better(problem, cut, stages) else stages
    seconds = min(SECONDS, time_limit / 2)
    if seconds > LEAST_SECONDS:
        stages = _improved(problem, stages, "bytes", Limits(solver, seconds, GAP))
        stages = _improved(problem, stages, "balance", Limits(solver, seconds, GAP))
    return stages


def _improved(problem: Problem, stages: Stages, aim: Aim, limits: Limits) -> Stages:
    """Ask the integer program once more, with the bottleneck fixed; for balance, the bytes too."""
    limit = bottleneck(problem, stages) * (1 + EQUAL)
    program = build(problem, limit, balance=aim == "balance")
    model = program.model
    model += program.bottleneck <= limit / program.scale
    moved, scale = _moved_bytes(problem, program)
    if aim == "bytes":
        model.setObjective(moved)
    else:
        model += moved <= moved_bytes(problem, stages) * (1 + EQUAL) / scale
        model.setObjective(program.fullest)
    start = start_values(problem, program, stages)
    improved = solve(problem, program, limits, start).stages
    if improved is None or not _is_better(problem, improved, stages):
        return stages
    return improved


def _moved_bytes(problem: Problem, program: Program) -> tuple[pulp.LpAffineExpression, float]:
    """The bytes that move, and what they are divided by so that they stay near one."""
    sizes = [tensor.both_ways_bytes for tensor in problem.tensors]
    scale = max([1.0, *sizes])
    terms = [
        sizes[transfer.tensor] / scale * transfer.variable
        for transfer in program.transfers
        if transfer.move != "leave" and sizes[transfer.tensor]
    ]
    return pulp.lpSum(terms), scale


def _is_better(problem: Problem, candidate: Stages, stages: Stages) -> bool:
    """Whether another placement fits, is as fast, and moves fewer bytes or fills more evenly."""
    limit = bottleneck(problem, stages) * (1 + EQUAL)
    if not fits(problem, candidate) or bottleneck(problem, candidate) > limit:
        return False
    before, after = moved_bytes(problem, stages), moved_bytes(problem, candidate)
    if after < before * (1 - EQUAL):
        return True
    return after <= before * (1 + EQUAL) and fullest(problem, candidate) < fullest(problem, stages)
