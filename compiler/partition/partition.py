"""Costed graph -> blocks -> placement, with what is proven of it."""

from dataclasses import dataclass, replace

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import JobSpec
from pipecut.compiler.partition.chain.chain import chain_cuts
from pipecut.compiler.partition.coarsen import OptimizerSpec, coarsen
from pipecut.compiler.partition.constraints import Constraints
from pipecut.compiler.partition.explain import explain
from pipecut.compiler.partition.made import users_of
from pipecut.compiler.partition.node_order import best_order, stage_devices_for
from pipecut.compiler.partition.place import SolverOptions, place
from pipecut.compiler.partition.problem import (
    Certificate,
    Placement,
    Problem,
    StageDevice,
    bottleneck,
    evenly_shared,
    fits,
    loads,
    recomputed,
)
from pipecut.compiler.schedules.registry import pipeline_ranks_of
from pipecut.errors import InfeasibleError

# Of the bottleneck, where many candidates are compared.
ROUGHLY = 1e-3


@dataclass(frozen=True)
class Placed:
    """A placement, and the cluster with its nodes in the order that suits it."""

    placement: Placement
    cluster: Cluster


def blocks_for(
    costed: CostedGraph,
    cluster: Cluster,
    spec: JobSpec,
    constraints: Constraints,
    candidate: Candidate,
) -> Problem:
    """Coarsen the graph into the blocks of a candidate's stages. Raises InfeasibleError for too few.

    What the stages of a rank must leave free does not matter yet: `partition` asks the cluster.
    """
    problem = coarsen(
        costed,
        _stage_devices(cluster, candidate, spec.precision),
        OptimizerSpec.of(spec, candidate.replicas),
        constraints,
        spec.recompute,
    )
    if candidate.stages_per_rank > 1:
        problem = replace(problem, devices=_pipeline_ranks(candidate))
    if len(problem.blocks) < candidate.stages:
        raise explain(problem, True, candidate.in_flight_per_stage)
    return problem


def partition(
    blocks: Problem,
    costed: CostedGraph,
    cluster: Cluster,
    precision: str,
    candidate: Candidate,
    solving: SolverOptions,
) -> Placed:
    """Place every block, on the nodes in the order that suits best. Raises InfeasibleError."""
    problem, ordered = _on_cluster(blocks, cluster, precision, candidate)
    stages, certificate = _placed(problem, solving, candidate)
    return Placed(_placement(costed, problem, stages, certificate), ordered)


def _placed(
    problem: Problem, solving: SolverOptions, candidate: Candidate
) -> tuple[list[int], Certificate]:
    """With several stages on a device, even stages: unequal ones leave ranks waiting, however even the devices are.

    Where not everything fits with the memory shared evenly too, even devices.
    """
    if problem.devices:
        try:
            return place(evenly_shared(problem), solving, candidate.in_flight_per_stage)
        except InfeasibleError:
            pass
    return place(problem, solving, candidate.in_flight_per_stage)


def place_quickly(
    blocks: Problem, costed: CostedGraph, cluster: Cluster, precision: str, candidate: Candidate
) -> Placed | None:
    """Place along one order, roughly, and with nothing proven; None when nothing was found that fits."""
    problem, ordered = _on_cluster(blocks, cluster, precision, candidate)
    stages = chain_cuts(evenly_shared(problem), ROUGHLY)
    if stages is None or not fits(problem, stages):
        return None
    objective = bottleneck(problem, stages)
    certificate = Certificate(objective, 0.0, 1.0, False, "chain over a topological order", 0.0)
    return Placed(_placement(costed, problem, stages, certificate), ordered)


def _on_cluster(
    blocks: Problem, cluster: Cluster, precision: str, candidate: Candidate
) -> tuple[Problem, Cluster]:
    """The blocks on a cluster's devices, its nodes in the order that suits them best."""

    def stage_devices(machine: Cluster) -> tuple[StageDevice, ...]:
        return _stage_devices(machine, candidate, precision)

    ordered = best_order(cluster, blocks, stage_devices)
    return replace(blocks, stage_devices=stage_devices(ordered)), ordered


def _stage_devices(
    cluster: Cluster, candidate: Candidate, precision: str
) -> tuple[StageDevice, ...]:
    return stage_devices_for(
        cluster,
        _pipeline_ranks(candidate),
        candidate.in_flight_per_stage(candidate.stages),
        candidate.replicas,
        precision,
    )


def _pipeline_ranks(candidate: Candidate) -> tuple[int, ...]:
    return pipeline_ranks_of(candidate.schedule, candidate.stages, candidate.stages_per_rank)


def _placement(
    costed: CostedGraph, problem: Problem, stages: list[int], certificate: Certificate
) -> Placement:
    on: list[frozenset[int]] = [frozenset()] * len(costed.graph.operators)
    for block, stage in zip(problem.blocks, stages, strict=True):
        for index in block.operators:
            on[index] = frozenset({stage})
    block_of = {index: at for at, block in enumerate(problem.blocks) for index in block.operators}
    for index, users in users_of(costed.graph, frozenset(problem.made), block_of).items():
        on[index] = frozenset(stages[at] for at in users)
    found, again = loads(problem, stages), recomputed(problem, stages)
    return Placement(tuple(on), tuple(found), tuple(again), certificate, problem)
