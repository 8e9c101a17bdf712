"""Placement -> the schedule's actions and the predicted step."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.graph import Graph, Parameter
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.operators.lookup import rule_of
from pipecut.compiler.partition.coarsen.parameter_bytes import stage_tensor
from pipecut.compiler.partition.placement import Placement
from pipecut.compiler.partition.problem import StageDevice
from pipecut.compiler.schedules.lower import lower
from pipecut.compiler.schedules.registry import orders
from pipecut.compiler.stages.cut import Cut, cut
from pipecut.device.types import type_of
from pipecut.plan.actions import Action, Hop
from pipecut.plan.layout import Place
from pipecut.plan.replay.simulate import Costs, simulate, transfers_over


@dataclass(frozen=True)
class Tie:
    """A tied parameter, the stages that use it, and seconds to sum its gradient over them."""

    parameter: Parameter
    stages: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Scheduled:
    """What each stage holds and its rank, each rank's actions, and the step.

    `weights` has seconds of each stage's backward that gradients of weights take where they come by themselves, `reductions`
    those to sum its gradients. Of the step: seconds, and the part of it that ranks wait. `ties` are tied parameters, their stages
    and seconds to sum them.
    """

    cuts: tuple[Cut, ...]
    pipeline_rank_of: tuple[int, ...]
    actions: list[list[Action]]
    weights: list[float]
    reductions: list[float]
    ties: list[Tie]
    step_seconds: float
    bubble: float


def schedule(
    costed: CostedGraph, cluster: Cluster, placement: Placement, candidate: Candidate
) -> Scheduled:
    """Order the microbatches, lower to actions and replay them."""
    graph, stage_devices = costed.graph, placement.problem.stage_devices
    cuts = cut(graph, placement.stages_of, candidate.stages)
    layout = candidate.layout
    pipeline_rank_of = layout.pipeline_rank_of
    order = orders(
        candidate.schedule, candidate.stages, candidate.microbatches, candidate.stages_per_rank
    )
    sends = {one.index for one in cuts if one.sends}
    returns = {one.index for one in cuts if any(graph.values[n].needs_grad for n in one.sends)}
    tied = _tied(graph, cuts)
    actions = lower(
        order, pipeline_rank_of, sends, returns, reduce=candidate.replicas > 1 or bool(tied)
    )
    forward, backward = stage_seconds(costed, stage_devices, cuts)
    weights = [
        weight_seconds(costed, slot.kind, one)
        if any(compute.op == "W" for compute in order[0])
        else 0.0
        for one, slot in zip(cuts, stage_devices, strict=True)
    ]
    backward = [
        b + (f if again else 0.0)
        for f, b, again in zip(forward, backward, placement.recompute, strict=True)
    ]
    transfers: dict[Hop, float] = {}
    for one in cuts[:-1]:
        sizes = [(graph.values[n].bytes, graph.values[n].needs_grad) for n in one.sends]
        transfers |= transfers_over(
            one.index, sizes, stage_devices[one.index].latency, stage_devices[one.index].bandwidth
        )
    reductions = [
        reduce_seconds(cluster, one, layout.replica_ranks(pipeline_rank_of[one.index]))
        for one in cuts
    ]
    of_ranks = [
        sum(seconds for seconds, r in zip(reductions, pipeline_rank_of, strict=True) if r == rank)
        for rank in range(len(actions))
    ]
    blocking = all(type_of(device.type).host_carries for device in cluster.devices)
    ties = [
        Tie(
            parameter,
            stages,
            ring_seconds(
                cluster,
                [layout.rank(Place(rank)) for rank in own],
                stage_tensor(parameter).gradient_bytes,
            ),
        )
        for parameter, stages in tied
        for own in [sorted({pipeline_rank_of[s] for s in stages})]
    ]
    together = [
        (tuple(sorted({pipeline_rank_of[s] for s in one.stages})), one.seconds) for one in ties
    ]
    timeline = simulate(
        actions, Costs(forward, backward, transfers, of_ranks, together, blocking, weights)
    )
    return Scheduled(
        cuts,
        pipeline_rank_of,
        actions,
        weights,
        reductions,
        ties,
        timeline.step_seconds,
        timeline.bubble,
    )


def stage_seconds(
    costed: CostedGraph, stage_devices: tuple[StageDevice, ...], cuts: tuple[Cut, ...]
) -> tuple[list[float], list[float]]:
    """Forward and backward seconds of each stage for a microbatch."""
    kinds = [stage_devices[one.index].kind for one in cuts]
    forward = [
        sum(costed.costs[i].forward[k] for i in one.operators)
        for one, k in zip(cuts, kinds, strict=True)
    ]
    backward = [
        sum(costed.costs[i].backward[k] for i in one.operators)
        for one, k in zip(cuts, kinds, strict=True)
    ]
    return forward, backward


def weight_seconds(costed: CostedGraph, kind: str, one: Cut) -> float:
    """Seconds of a stage's backward that the gradients of weights take which may come later: half of such a product's.

    Both gradients are a product of as many FLOPs; where what is multiplied needs none, that of the weight is all there is.
    """
    graph, held = costed.graph, {p.value for p in one.parameters if p.trainable}
    total = 0.0
    for index in one.operators:
        operator = graph.operators[index]
        if rule_of(operator.target).weight_gradient_later and held & set(operator.inputs):
            others = [name for name in operator.inputs if name not in held]
            both = any(graph.values[name].needs_grad for name in others if name in graph.values)
            total += costed.costs[index].backward[kind] / (2 if both else 1)
    return total


def reduce_seconds(cluster: Cluster, one: Cut, ranks: Sequence[int]) -> float:
    """Seconds to sum a stage's gradients over its replicas.

    Where each steps rows of its own, the sums go to one alone, and the rows come back: as much in all.
    """
    size = sum(stage_tensor(p).gradient_bytes for p in one.parameters)
    return ring_seconds(cluster, ranks, size)


def ring_seconds(cluster: Cluster, devices: Sequence[int], size: int) -> float:
    """Seconds to sum that many bytes over devices in a ring.

    Each sends them 2 (r - 1) / r times, in 2 (r - 1) messages (Patarasuk and Yuan, 2009). It receives as much meanwhile, which
    a CPU's core has to carry too, and add.
    """
    count = len(devices)
    if count == 1:
        return 0.0
    link = cluster.slowest_link(pairwise(devices))
    here = cluster.devices[devices[0]]
    part = size / count
    adding = 3 * part / here.bandwidth / 2
    by_host = type_of(here.type).host_carries
    carried = 2 * part / link.bandwidth + adding if by_host else part / link.bandwidth
    return 2 * (count - 1) * (carried + link.latency)


def _tied(graph: Graph, cuts: tuple[Cut, ...]) -> list[tuple[Parameter, tuple[int, ...]]]:
    users = [
        (p, tuple(one.index for one in cuts if p in one.parameters))
        for p in graph.parameters
        if p.trainable
    ]
    return [(parameter, stages) for parameter, stages in users if len(stages) > 1]
