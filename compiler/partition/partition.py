"""Costed graph -> placement, with what is proven of it."""

from dataclasses import replace

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


def partition(
    costed: CostedGraph,
    cluster: Cluster,
    spec: JobSpec,
    constraints: Constraints,
    candidate: Candidate,
    solving: SolverOptions,
) -> tuple[Placement, Cluster]:
    """Place every operator, on the nodes in the order that suits best: the placement and the cluster in that order.

    Raises InfeasibleError.
    """
    problem, cluster = _problem(costed, cluster, spec, constraints, candidate)
    stages, certificate = _placed(problem, solving, candidate)
    return _placement(costed, problem, stages, certificate), cluster


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
    costed: CostedGraph,
    cluster: Cluster,
    spec: JobSpec,
    constraints: Constraints,
    candidate: Candidate,
) -> tuple[Placement, Cluster] | None:
    """As `partition`, but along one order, roughly, and with nothing proven; None when nothing was found that fits."""
    try:
        problem, cluster = _problem(costed, cluster, spec, constraints, candidate)
    except InfeasibleError:
        return None
    stages = chain_cuts(evenly_shared(problem), ROUGHLY)
    if stages is None or not fits(problem, stages):
        return None
    objective = bottleneck(problem, stages)
    certificate = Certificate(objective, 0.0, 1.0, False, "chain over a topological order", 0.0)
    return _placement(costed, problem, stages, certificate), cluster


def _problem(
    costed: CostedGraph, cluster: Cluster, spec: JobSpec, constraints: Constraints, one: Candidate
) -> tuple[Problem, Cluster]:
    in_flight_per_stage, pipeline_rank_of = (
        one.in_flight_per_stage(one.stages),
        pipeline_ranks_of(one.schedule, one.stages, one.stages_per_rank),
    )

    def stage_devices(machine: Cluster) -> tuple[StageDevice, ...]:
        return stage_devices_for(
            machine, pipeline_rank_of, in_flight_per_stage, one.replicas, spec.precision
        )

    problem = coarsen(
        costed,
        stage_devices(cluster),
        OptimizerSpec.of(spec, one.replicas),
        constraints,
        spec.recompute,
    )
    problem = replace(problem, devices=pipeline_rank_of if one.stages_per_rank > 1 else ())
    if len(problem.blocks) < one.stages:
        raise explain(problem, True, one.in_flight_per_stage)
    cluster = best_order(cluster, problem, stage_devices)
    return replace(problem, stage_devices=stage_devices(cluster)), cluster


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
