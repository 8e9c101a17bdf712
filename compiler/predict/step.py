"""Placement -> the schedule's actions and the predicted step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.graph import Graph, Parameter
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.partition.coarsen.parameter_bytes import stage_tensor
from pipecut.compiler.partition.placement import Placement
from pipecut.compiler.partition.problem import StageDevice
from pipecut.compiler.predict.stage_seconds import (
    StageSeconds,
    compute_seconds,
    reduce_seconds,
    ring_seconds,
)
from pipecut.compiler.schedules.lower import lower
from pipecut.compiler.schedules.registry import SCHEDULES, orders
from pipecut.compiler.stages.cut import Cut, cut
from pipecut.device.types import type_of
from pipecut.plan.actions import ActionTable, Compute, Hop
from pipecut.plan.layout import Place, RankLayout
from pipecut.plan.replay.simulate import BoundaryTraffic, Costs, TiedSum, simulate


@dataclass(frozen=True)
class Tie:
    """A tied parameter, the stages that use it, and seconds per step to sum its gradient."""

    parameter: Parameter
    stages: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Scheduled:
    """Each stage's cut, pipeline rank and seconds, each rank's actions, and the predicted step.

    `bubble` is the fraction of the step that ranks wait, over all ranks.
    """

    cuts: tuple[Cut, ...]
    pipeline_rank_of: tuple[int, ...]
    actions: ActionTable
    seconds: tuple[StageSeconds, ...]
    ties: tuple[Tie, ...]
    step_seconds: float
    bubble: float


def schedule(
    costed: CostedGraph, cluster: Cluster, placement: Placement, candidate: Candidate
) -> Scheduled:
    """Order the microbatches, lower to actions and replay them."""
    layout, stage_devices = candidate.layout, placement.problem.stage_devices
    cuts = cut(costed.graph, placement.stages_of, candidate.stages)
    order = orders(
        candidate.schedule, candidate.stages, candidate.microbatches, candidate.stages_per_rank
    )
    ties = _ties(costed.graph, cuts, cluster, layout)
    actions = _lowered(costed.graph, cuts, order, layout, sums=bool(ties))
    splits_backward = SCHEDULES[candidate.schedule].splits_backward
    seconds = tuple(
        replace(
            compute_seconds(costed, stage_cut, device.kind, splits_backward),
            reduce=reduce_seconds(
                cluster,
                stage_cut,
                layout.replica_ranks(layout.pipeline_rank_of[stage_cut.index]),
            ),
        )
        for stage_cut, device in zip(cuts, stage_devices, strict=True)
    )
    blocking = all(type_of(device.type).host_carries for device in cluster.devices)
    costs = Costs(
        forward=[stage.forward for stage in seconds],
        backward=[
            stage.backward + (stage.forward if recomputes else 0.0)
            for stage, recomputes in zip(seconds, placement.recompute, strict=True)
        ],
        transfers=_transfers(costed.graph, cuts, stage_devices),
        reductions=_reductions(seconds, layout),
        ties=[TiedSum(_pipeline_ranks(layout, tie.stages), tie.seconds) for tie in ties],
        blocking=blocking,
        weights=[stage.weights for stage in seconds],
    )
    timeline = simulate(actions, costs)
    return Scheduled(
        cuts,
        layout.pipeline_rank_of,
        actions,
        seconds,
        ties,
        timeline.step_seconds,
        timeline.bubble,
    )


def _lowered(
    graph: Graph,
    cuts: Sequence[Cut],
    order: Sequence[Sequence[Compute]],
    layout: RankLayout,
    sums: bool,
) -> ActionTable:
    """Actions of each rank. `sums` where gradients of tied parameters are summed."""
    sending = {stage_cut.index for stage_cut in cuts if stage_cut.sends}
    returning = {
        stage_cut.index
        for stage_cut in cuts
        if any(graph.values[name].needs_grad for name in stage_cut.sends)
    }
    reduce = sums or layout.replicas > 1
    return lower(order, layout.pipeline_rank_of, sending, returning, reduce=reduce)


def _transfers(
    graph: Graph, cuts: Sequence[Cut], stage_devices: Sequence[StageDevice]
) -> dict[Hop, float]:
    """Seconds of each message between neighbouring stages."""
    transfers: dict[Hop, float] = {}
    for stage_cut, link in zip(cuts[:-1], stage_devices, strict=False):
        values = [graph.values[name] for name in stage_cut.sends]
        activations = sum(value.bytes for value in values)
        gradients = sum(value.bytes for value in values if value.needs_grad)
        traffic = BoundaryTraffic(activations, gradients, link.latency, link.bandwidth)
        transfers |= traffic.seconds_after(stage_cut.index)
    return transfers


def _reductions(seconds: Sequence[StageSeconds], layout: RankLayout) -> list[float]:
    """Seconds per step of each pipeline rank to sum gradients over replicas."""
    reductions = [0.0] * layout.pipeline_ranks
    for stage, pipeline_rank in zip(seconds, layout.pipeline_rank_of, strict=True):
        reductions[pipeline_rank] += stage.reduce
    return reductions


def _ties(
    graph: Graph, cuts: Sequence[Cut], cluster: Cluster, layout: RankLayout
) -> tuple[Tie, ...]:
    """The trainable parameters that several stages use."""
    ties = []
    held = [{parameter.value for parameter in cut.parameters} for cut in cuts]
    for parameter in graph.parameters if len(cuts) > 1 else ():
        stages = tuple(stage for stage, values in enumerate(held) if parameter.value in values)
        if parameter.trainable and len(stages) > 1:
            ranks = [layout.rank(Place(rank)) for rank in _pipeline_ranks(layout, stages)]
            size = stage_tensor(parameter).gradient_bytes
            ties.append(Tie(parameter, stages, ring_seconds(cluster, ranks, size)))
    return tuple(ties)


def _pipeline_ranks(layout: RankLayout, stages: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted({layout.pipeline_rank_of[stage] for stage in stages}))
