"""Costed graph -> placement, with what is proven of it."""

from pipecut.compiler.cluster import Cluster
from pipecut.compiler.constraints import Constraints
from pipecut.compiler.costs import CostedGraph
from pipecut.compiler.partition.coarsen import coarsen
from pipecut.compiler.partition.explain import Flights, explain
from pipecut.compiler.partition.place import place
from pipecut.compiler.partition.problem import Certificate, Placement, Slot, loads

__all__ = ["Certificate", "Placement", "partition", "slots_for", "place"]


def slots_for(cluster: Cluster, stages: int, in_flight: tuple[int, ...]) -> tuple[Slot, ...]:
    """The first `stages` devices of the cluster, in order."""
    slots = []
    for s in range(stages):
        link = cluster.link(s, min(s + 1, stages - 1))
        device = cluster.devices[s]
        slots.append(Slot(device.kind, device.memory - cluster.reserve, in_flight[s], link.bandwidth, link.latency))
    return tuple(slots)


def partition(
    costed: CostedGraph,
    slots: tuple[Slot, ...],
    optimizer: str,
    told: Constraints,
    solver: str,
    time_limit: float,
    gap: float,
    flights: Flights,
) -> Placement:
    """Place every operator. Raises InfeasibleError."""
    problem = coarsen(costed, slots, optimizer, told)
    if len(problem.blocks) < len(slots):
        raise explain(problem, True, flights)
    stages, certificate = place(problem, solver, time_limit, gap, flights)
    stage_of = [0] * len(costed.graph.operators)
    for block, stage in zip(problem.blocks, stages, strict=True):
        for index in block.operators:
            stage_of[index] = stage
    return Placement(tuple(stage_of), tuple(loads(problem, stages)), certificate, problem)
