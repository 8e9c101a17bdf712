"""Costed graph -> placement, with what is proven of it."""

from dataclasses import replace

from pipecut.compiler.cluster import Cluster
from pipecut.compiler.constraints import Constraints
from pipecut.compiler.costs import CostedGraph
from pipecut.compiler.partition.coarsen import coarsen
from pipecut.compiler.partition.explain import Flights, explain
from pipecut.compiler.partition.order import best_order, slots_for
from pipecut.compiler.partition.place import place
from pipecut.compiler.partition.problem import Certificate, Placement, Recompute, loads, recomputed

__all__ = ["Certificate", "Placement", "partition", "place"]


def partition(
    costed: CostedGraph,
    cluster: Cluster,
    optimizer: str,
    told: Constraints,
    recompute: Recompute,
    stages: int,
    flights: Flights,
    solver: str,
    time_limit: float,
    gap: float,
) -> tuple[Placement, Cluster]:
    """Place every operator, on the nodes in the order that suits best: the placement and the cluster in that order.

    `flights` gives the microbatches in flight on each of a number of stages; `time_limit` is in seconds, `gap` relative.
    Raises InfeasibleError.
    """
    problem = coarsen(costed, slots_for(cluster, stages, flights(stages)), optimizer, told, recompute)
    if len(problem.blocks) < stages:
        raise explain(problem, True, flights)
    cluster = best_order(cluster, problem, flights(stages))
    problem = replace(problem, slots=slots_for(cluster, stages, flights(stages)))
    stage_of_block, certificate = place(problem, solver, time_limit, gap, flights)
    stage_of = [0] * len(costed.graph.operators)
    for block, stage in zip(problem.blocks, stage_of_block, strict=True):
        for index in block.operators:
            stage_of[index] = stage
    found, again = loads(problem, stage_of_block), recomputed(problem, stage_of_block)
    return Placement(tuple(stage_of), tuple(found), tuple(again), certificate, problem), cluster
