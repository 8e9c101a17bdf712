"""Placement -> the schedule's actions and the predicted step."""

from dataclasses import dataclass

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.cluster import Cluster
from pipecut.compiler.costs import CostedGraph
from pipecut.compiler.cut import Cut, cut
from pipecut.compiler.partition import Placement
from pipecut.compiler.partition.problem import Slot
from pipecut.compiler.schedules import ORDERS, lower
from pipecut.runtime.plan import Action
from pipecut.runtime.simulate import Costs, simulate, transfers_over


@dataclass(frozen=True)
class Scheduled:
    """What each stage holds, each rank's actions and seconds to sum gradients, and the step.

    Of which: seconds, and the part of it that ranks wait.
    """

    cuts: tuple[Cut, ...]
    actions: list[list[Action]]
    reductions: list[float]
    step_seconds: float
    bubble: float


def schedule(costed: CostedGraph, cluster: Cluster, placement: Placement, candidate: Candidate) -> Scheduled:
    """Order the microbatches, lower to actions and replay them."""
    graph, slots = costed.graph, placement.problem.slots
    cuts = cut(graph, placement.stage_of, candidate.stages)
    orders = [ORDERS[candidate.schedule](s, candidate.stages, candidate.microbatches) for s in range(candidate.stages)]
    sends = {one.index for one in cuts if one.sends}
    returns = {one.index for one in cuts if any(graph.values[n].needs_grad for n in one.sends)}
    actions = lower(orders, sends, returns, reduce=candidate.replicas > 1 or _tied(cuts))
    forward, backward = stage_seconds(costed, slots, cuts)
    backward = [b + (f if again else 0.0) for f, b, again in zip(forward, backward, placement.recompute, strict=True)]
    transfers: dict[tuple[str, int], float] = {}
    for one in cuts[:-1]:
        sizes = [(graph.values[n].bytes, graph.values[n].needs_grad) for n in one.sends]
        transfers |= transfers_over(one.index, sizes, slots[one.index].latency, slots[one.index].bandwidth)
    reductions = [reduce_seconds(cluster, one, candidate.replicas) for one in cuts]
    on_cpu = all(device.type == "cpu" for device in cluster.devices)
    timeline = simulate(actions, Costs(forward, backward, transfers, reductions, on_cpu))
    return Scheduled(cuts, actions, reductions, timeline.step_seconds, timeline.bubble)


def stage_seconds(costed: CostedGraph, slots: tuple[Slot, ...], cuts: tuple[Cut, ...]) -> tuple[list[float], list[float]]:
    """Forward and backward seconds of each stage for a microbatch."""
    kinds = [slots[one.index].kind for one in cuts]
    forward = [sum(costed.costs[i].forward[k] for i in one.operators) for one, k in zip(cuts, kinds, strict=True)]
    backward = [sum(costed.costs[i].backward[k] for i in one.operators) for one, k in zip(cuts, kinds, strict=True)]
    return forward, backward


def reduce_seconds(cluster: Cluster, one: Cut, replicas: int) -> float:
    """Seconds to sum a stage's gradients over its replicas in a ring.

    Each sends its gradients 2 (r - 1) / r times, in 2 (r - 1) messages (Patarasuk and Yuan, 2009).
    """
    if replicas == 1:
        return 0.0
    first = one.index * replicas
    link = cluster.slowest_link((at, at + 1) for at in range(first, first + replicas - 1))
    size = sum(p.bytes for p in one.parameters if p.trainable)
    return 2 * (replicas - 1) * (size / replicas / link.bandwidth + link.latency)


def _tied(cuts: tuple[Cut, ...]) -> bool:
    held = [parameter.value for one in cuts for parameter in one.parameters if parameter.trainable]
    return len(held) > len(set(held))
