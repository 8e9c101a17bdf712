"""Placement -> the schedule's actions and the predicted step."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.cluster import Cluster
from pipecut.compiler.costs import CostedGraph
from pipecut.compiler.cut import Cut, cut
from pipecut.compiler.graph import Graph, Parameter
from pipecut.compiler.partition import Placement
from pipecut.compiler.partition.problem import Slot
from pipecut.compiler.schedules import ORDERS, lower
from pipecut.runtime.plan import Action
from pipecut.runtime.simulate import Costs, simulate, transfers_over


@dataclass(frozen=True)
class Tie:
    """A tied parameter, the stages that use it, and seconds to sum its gradient over them."""

    parameter: Parameter
    stages: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Scheduled:
    """What each stage holds, each rank's actions and seconds to sum gradients, and the step.

    Of which: seconds, and the part of it that ranks wait. `ties` are tied parameters, their stages and seconds to sum them.
    """

    cuts: tuple[Cut, ...]
    actions: list[list[Action]]
    reductions: list[float]
    ties: list[Tie]
    step_seconds: float
    bubble: float


def schedule(costed: CostedGraph, cluster: Cluster, placement: Placement, candidate: Candidate) -> Scheduled:
    """Order the microbatches, lower to actions and replay them."""
    graph, slots = costed.graph, placement.problem.slots
    cuts = cut(graph, placement.stage_of, candidate.stages)
    orders = [ORDERS[candidate.schedule](s, candidate.stages, candidate.microbatches) for s in range(candidate.stages)]
    sends = {one.index for one in cuts if one.sends}
    returns = {one.index for one in cuts if any(graph.values[n].needs_grad for n in one.sends)}
    tied = _tied(graph, cuts)
    actions = lower(orders, sends, returns, reduce=candidate.replicas > 1 or bool(tied))
    forward, backward = stage_seconds(costed, slots, cuts)
    backward = [b + (f if again else 0.0) for f, b, again in zip(forward, backward, placement.recompute, strict=True)]
    transfers: dict[tuple[str, int], float] = {}
    for one in cuts[:-1]:
        sizes = [(graph.values[n].bytes, graph.values[n].needs_grad) for n in one.sends]
        transfers |= transfers_over(one.index, sizes, slots[one.index].latency, slots[one.index].bandwidth)
    reductions = [reduce_seconds(cluster, one, candidate.replicas) for one in cuts]
    on_cpu = all(device.type == "cpu" for device in cluster.devices)
    ties = [
        Tie(parameter, stages, ring_seconds(cluster, [s * candidate.replicas for s in stages], parameter.bytes))
        for parameter, stages in tied
    ]
    costs = Costs(forward, backward, transfers, reductions, [(one.stages, one.seconds) for one in ties], on_cpu)
    timeline = simulate(actions, costs)
    return Scheduled(cuts, actions, reductions, ties, timeline.step_seconds, timeline.bubble)


def stage_seconds(costed: CostedGraph, slots: tuple[Slot, ...], cuts: tuple[Cut, ...]) -> tuple[list[float], list[float]]:
    """Forward and backward seconds of each stage for a microbatch."""
    kinds = [slots[one.index].kind for one in cuts]
    forward = [sum(costed.costs[i].forward[k] for i in one.operators) for one, k in zip(cuts, kinds, strict=True)]
    backward = [sum(costed.costs[i].backward[k] for i in one.operators) for one, k in zip(cuts, kinds, strict=True)]
    return forward, backward


def reduce_seconds(cluster: Cluster, one: Cut, replicas: int) -> float:
    """Seconds to sum a stage's gradients over its replicas."""
    first = one.index * replicas
    size = sum(p.bytes for p in one.parameters if p.trainable)
    return ring_seconds(cluster, range(first, first + replicas), size)


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
    carried = 2 * part / link.bandwidth + adding if here.type == "cpu" else part / link.bandwidth
    return 2 * (count - 1) * (carried + link.latency)


def _tied(graph: Graph, cuts: tuple[Cut, ...]) -> list[tuple[Parameter, tuple[int, ...]]]:
    users = [(p, tuple(one.index for one in cuts if p in one.parameters)) for p in graph.parameters if p.trainable]
    return [(parameter, stages) for parameter, stages in users if len(stages) > 1]
