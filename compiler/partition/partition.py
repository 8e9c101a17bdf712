"""Costed graph -> blocks -> placement, with what is proven of it."""

from dataclasses import dataclass, replace

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import JobSpec
from pipecut.compiler.partition.chain.chain import chain_cuts
from pipecut.compiler.partition.coarsen.coarsen import coarsen
from pipecut.compiler.partition.coarsen.parameter_bytes import OptimizerSpec
from pipecut.compiler.partition.constraints import Constraints
from pipecut.compiler.partition.explain import explain
from pipecut.compiler.partition.load import bottleneck
from pipecut.compiler.partition.memory import evenly_shared, fits
from pipecut.compiler.partition.node_order import best_order, stage_devices_for
from pipecut.compiler.partition.place import SolverOptions, place
from pipecut.compiler.partition.placement import Certificate, Placement, placement_of
from pipecut.compiler.partition.problem import Problem, StageDevice, Stages
from pipecut.errors import InfeasibleError

# Precision of the bottleneck where many candidates are compared.
ROUGHLY = 1e-3


@dataclass(frozen=True)
class Placed:
    """A placement, and the cluster with its nodes in the order that suits it."""

    placement: Placement
    cluster: Cluster


def coarsen_for(
    costed: CostedGraph,
    cluster: Cluster,
    spec: JobSpec,
    constraints: Constraints,
    candidate: Candidate,
) -> Problem:
    """Coarsen the graph into the blocks of a candidate's stages.

    Raises InfeasibleError where blocks are fewer than stages. What the stages of a rank must leave
    free does not matter yet: `partition` asks the cluster.
    """
    problem = coarsen(
        costed,
        _stage_devices(cluster, candidate, spec.precision),
        OptimizerSpec.of(spec, candidate.replicas),
        constraints,
        spec.recompute,
    )
    if candidate.stages_per_rank > 1:
        problem = replace(problem, devices=candidate.layout.pipeline_rank_of)
    if len(problem.blocks) < candidate.stages:
        raise explain(problem, True, candidate.in_flight_per_stage)
    return problem


def partition(
    blocks: Problem,
    cluster: Cluster,
    precision: str,
    candidate: Candidate,
    options: SolverOptions,
) -> Placed:
    """Place every block, on the nodes in the order that suits best. Raises InfeasibleError."""
    problem, ordered = _on_cluster(blocks, cluster, precision, candidate)
    stages, certificate = _stages(problem, options, candidate)
    return Placed(placement_of(problem, stages, certificate), ordered)


def _stages(
    problem: Problem, options: SolverOptions, candidate: Candidate
) -> tuple[Stages, Certificate]:
    """The stage of each block.

    With several stages on a device, even stages are sought: unequal ones leave ranks waiting,
    however even the devices are. Where not everything fits with the device's memory shared evenly
    too, even devices.
    """
    if problem.devices:
        try:
            return place(evenly_shared(problem), options, candidate.in_flight_per_stage)
        except InfeasibleError:
            pass
    return place(problem, options, candidate.in_flight_per_stage)


def place_quickly(
    blocks: Problem, cluster: Cluster, precision: str, candidate: Candidate
) -> Placed | None:
    """Place along one order, roughly, with nothing proven; None where that does not fit."""
    problem, ordered = _on_cluster(blocks, cluster, precision, candidate)
    stages = chain_cuts(evenly_shared(problem), ROUGHLY)
    if stages is None or not fits(problem, stages):
        return None
    objective = bottleneck(problem, stages)
    certificate = Certificate(objective, 0.0, 1.0, False, "chain over a topological order", 0.0)
    return Placed(placement_of(problem, stages, certificate), ordered)


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
        candidate.layout,
        candidate.in_flight_per_stage(candidate.stages),
        precision,
    )
