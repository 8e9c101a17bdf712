"""Among placements with the same bottleneck: the one that moves the fewest bytes, and of those the one that fills memory evenly.

Small problems ask the integer program twice more with the bottleneck fixed. Larger ones cut again the order that their
placement gives, now for the fewest bytes:

    least[s+1][i] = over[i] + min of least[s][j] over the j < i whose segment j..i-1 fits stage s within the bottleneck
"""

import numpy as np
import pulp

from pipecut.compiler.partition.chain.chain import made_again, seconds_over, work_before
from pipecut.compiler.partition.chain.windows import (
    FeasibleStarts,
    Floats,
    Ints,
    over_cuts,
    room_of_stages,
)
from pipecut.compiler.partition.contract import contract, expand
from pipecut.compiler.partition.load import bottleneck, moved_bytes
from pipecut.compiler.partition.memory import device_bytes, fits, recomputing
from pipecut.compiler.partition.problem import Problem
from pipecut.compiler.partition.program.program import Program, build, start_values
from pipecut.compiler.partition.program.solver import solve

# Block-stage pairs for which the integer program breaks ties, and seconds for each of its two questions.
LARGEST_PROGRAM, SECONDS, LEAST_SECONDS = 2500, 1.0, 0.2
# Segments to weigh for the order of a larger one.
MOST_SEGMENTS = 400_000_000
EQUAL = 1e-9


def break_ties(
    problem: Problem, stages: list[int], solver: str, time_limit: float = 2 * SECONDS
) -> list[int]:
    """A placement as fast as this one, better in bytes and balance where one is found; `time_limit` in seconds."""
    if len(problem.blocks) * len(problem.stage_devices) > LARGEST_PROGRAM:
        found = _fewest_bytes_of_order(problem, stages)
        return found if found is not None and _better(problem, found, stages) else stages
    seconds = min(SECONDS, time_limit / 2)
    for aim in (_bytes, _balance) if seconds > LEAST_SECONDS else ():
        most = bottleneck(problem, stages) * (1 + EQUAL)
        program = build(problem, most, balance=aim is _balance)
        model = program.model
        model += program.bottleneck <= most / program.scale
        fixed = None if aim is _bytes else moved_bytes(problem, stages) * (1 + EQUAL)
        aim(problem, program, fixed)
        values = start_values(problem, program, stages)
        found = solve(
            program, len(problem.blocks), len(problem.stage_devices), values, solver, seconds, 1e-6
        ).stages
        if found is not None and _better(problem, found, stages):
            stages = found
    return stages


def _better(problem: Problem, new: list[int], old: list[int]) -> bool:
    if not fits(problem, new) or bottleneck(problem, new) > bottleneck(problem, old) * (1 + EQUAL):
        return False
    before, after = moved_bytes(problem, old), moved_bytes(problem, new)
    return after < before * (1 - EQUAL) or (
        after <= before * (1 + EQUAL) and fullest(problem, new) < fullest(problem, old)
    )


def fullest(problem: Problem, stages: list[int]) -> float:
    """The largest part of its capacity that a device uses."""
    capacity = dict(
        zip(
            problem.device_of,
            (max(slot.capacity, 1) for slot in problem.stage_devices),
            strict=True,
        )
    )
    again = dict(zip(problem.device_of, recomputing(problem, stages), strict=True))
    used = {
        recompute: device_bytes(problem, stages, recompute) for recompute in set(again.values())
    }
    return max(used[again[device]][device] / capacity[device] for device in capacity)


def _bytes(problem: Problem, program: Program, fixed: float | None) -> None:
    """Aim at the bytes that move, or fix them."""
    sizes = [c.forward_bytes + c.backward_bytes for c in problem.tensors]
    scale = max(1.0, *sizes) if sizes else 1.0
    terms = [
        sizes[t] / scale * variable
        for variable, t, _, kind in program.transfers
        if kind != "leave" and sizes[t]
    ]
    if fixed is None:
        program.model.setObjective(pulp.lpSum(terms))
    else:
        model = program.model
        model += pulp.lpSum(terms) <= fixed / scale


def _balance(problem: Problem, program: Program, fixed: float | None) -> None:
    _bytes(problem, program, fixed)
    program.model.setObjective(program.fullest)


def _fewest_bytes_of_order(problem: Problem, stages: list[int]) -> list[int] | None:
    """The cut of the order that these stages give which moves the fewest bytes; None when it is not to be had."""
    if problem.comm != "relay" or problem.devices:
        return None
    order = sorted(range(len(stages)), key=lambda v: (stages[v], v))
    chain = contract(problem, [[v] for v in order])
    target = bottleneck(problem, stages) * (1 + EQUAL)
    over = over_cuts(chain, lambda tensor: tensor.forward_bytes + tensor.backward_bytes)
    work = {slot.kind: work_before(chain, slot.kind, False) for slot in chain.stage_devices}
    width = max(
        int((np.arange(len(w)) - np.searchsorted(w, w - target)).max()) for w in work.values()
    )
    if width * len(order) * len(chain.stage_devices) > MOST_SEGMENTS:
        return None
    rooms = [room_of_stages(chain, way) for way in chain.recompute_choices]
    least: Floats = np.where(np.arange(len(order) + 1) == 0, 0.0, np.inf)
    choice = []
    for stage in range(len(chain.stage_devices)):
        least, starts = _extend(
            chain, stage, least, [room[stage] for room in rooms], over, target, width
        )
        choice.append(starts)
    if not np.isfinite(least[-1]):
        return None
    cut, end = [0] * len(order), len(order)
    for stage in range(len(chain.stage_devices) - 1, -1, -1):
        start = int(choice[stage][end])
        cut[start:end] = [stage] * (end - start)
        end = start
    return expand(cut, [[v] for v in order], len(order))


def _extend(
    chain: Problem,
    stage: int,
    least: Floats,
    rooms: list[FeasibleStarts],
    over: Floats,
    target: float,
    width: int,
) -> tuple[Floats, Ints]:
    """Fewest bytes for each end of the stage, and the start that gives them."""
    ends = np.arange(len(least))
    starts = ends[:, None] - 1 - np.arange(width)[None, :]
    inside = np.maximum(starts, 0)
    last = len(chain.stage_devices) - 1
    left = seconds_over(chain, stage - 1) if stage else np.zeros(len(least))
    right = seconds_over(chain, stage) if stage < last else np.zeros(len(least))
    allowed = np.zeros(starts.shape, dtype=bool)
    for room, way in zip(rooms, chain.recompute_choices, strict=True):
        kind = chain.stage_devices[stage].kind
        work = work_before(chain, kind, way)
        fast = (
            work[:, None] + right[:, None] - (work - left - made_again(chain, kind, way))[inside]
            <= target
        )
        allowed |= fast & (starts >= room.earliest[:, None])
    bytes_ = np.where(allowed & (starts >= 0), least[inside], np.inf)
    column = np.argmin(bytes_, axis=1)
    result = bytes_[ends, column] + (over if stage < last else 0.0)
    return result, starts[ends, column]
