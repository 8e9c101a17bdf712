"""Costed graph -> placement, with what is proven of it."""

import time

from pipecut.compiler.cluster import Cluster
from pipecut.compiler.costs import CostedGraph
from pipecut.compiler.partition.coarsen import coarsen
from pipecut.compiler.partition.explain import Flights, explain
from pipecut.compiler.partition.problem import Certificate, Placement, Problem, Slot, loads, memory
from pipecut.compiler.partition.program import build, start_values
from pipecut.compiler.partition.solver import solve
from pipecut.compiler.partition.warmstart import chain_cuts

__all__ = ["Certificate", "Placement", "partition", "slots_for", "place"]

# Beyond this many block-stage pairs the program is too slow to be worth its proof.
LARGEST_PROGRAM = 4200


def slots_for(cluster: Cluster, stages: int, in_flight: tuple[int, ...]) -> tuple[Slot, ...]:
    """The first `stages` devices of the cluster, in order."""
    slots = []
    for s in range(stages):
        link = cluster.link(s, min(s + 1, stages - 1))
        device = cluster.devices[s]
        slots.append(Slot(device.kind, device.memory - cluster.reserve, in_flight[s], link.bandwidth, link.latency))
    return tuple(slots)


def partition(
    costed: CostedGraph, slots: tuple[Slot, ...], optimizer: str, solver: str, time_limit: float, gap: float, flights: Flights
) -> Placement:
    """Place every operator. Raises InfeasibleError."""
    problem = coarsen(costed, slots, optimizer, limit=max(120, LARGEST_PROGRAM // len(slots)))
    if len(problem.blocks) < len(slots):
        raise explain(problem, True, flights)
    stages, certificate = place(problem, solver, time_limit, gap, flights)
    stage_of = [0] * len(costed.graph.operators)
    for block, stage in zip(problem.blocks, stages, strict=True):
        for index in block.operators:
            stage_of[index] = stage
    return Placement(tuple(stage_of), tuple(loads(problem, stages)), certificate)


def place(problem: Problem, solver: str, time_limit: float, gap: float, flights: Flights) -> tuple[list[int], Certificate]:
    """Stage of each block and the certificate. Raises InfeasibleError."""
    begin = time.perf_counter()
    simple = _simple_bound(problem)
    if len(problem.slots) == 1:
        only = [0] * len(problem.blocks)
        if memory(problem, only)[0] > problem.slots[0].capacity:
            raise explain(problem, True, flights)
        return only, Certificate(loads(problem, only)[0], simple, 0.0, True, "one stage", 0.0)
    first = chain_cuts(problem)
    program = build(problem)
    start = start_values(problem, program, first, max(loads(problem, first))) if first is not None else None
    found = solve(program, len(problem.blocks), len(problem.slots), start, solver, time_limit, gap)
    candidates = [c for c in (first, found.stages) if c is not None and _fits(problem, c)]
    if not candidates:
        raise explain(problem, found.infeasible and problem.lossless, flights)
    best = min(candidates, key=lambda c: max(loads(problem, c)))
    objective = max(loads(problem, best))
    # Merging blocks may have cost the optimum, so the program's bound holds only when none were merged.
    bound = max(simple, found.bound) if problem.lossless else simple
    bound = min(bound, objective)
    relative = (objective - bound) / objective if objective > 0 else 0.0
    seconds = time.perf_counter() - begin
    return best, Certificate(objective, bound, relative, relative <= 1e-6, found.name, seconds)


def _fits(problem: Problem, stages: list[int]) -> bool:
    return all(used <= slot.capacity for used, slot in zip(memory(problem, stages), problem.slots, strict=True))


def _simple_bound(problem: Problem) -> float:
    """No stage set beats all work at the fastest rates, evenly spread, nor the largest single block."""
    fastest = [min(block.seconds[slot.kind] for slot in problem.slots) for block in problem.blocks]
    largest = max(fastest, default=0.0) if problem.lossless else 0.0
    return max(sum(fastest) / len(problem.slots), largest)
