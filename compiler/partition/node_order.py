"""Which nodes take the first stages and which the last.

Unequal nodes make a difference twice: the first stages hold the most microbatches in flight, and the network between two
nodes is best where few bytes cross. Nodes of one type stay side by side; every order of the types is tried on the chain.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

from pipecut.compiler.inputs.cluster import Cluster, Device
from pipecut.compiler.inputs.cluster_schema import Link
from pipecut.compiler.partition.chain.chain import chain_cuts
from pipecut.compiler.partition.load import bottleneck
from pipecut.compiler.partition.problem import Problem, StageDevice
from pipecut.plan.layout import RankLayout

# Four types of node have 24 orders.
MOST_TYPES = 4
# Between stages of one device nothing moves.
NOWHERE = Link.model_validate({"bandwidth": "1000000TB/s", "latency": "0us"})


def stage_devices_for(
    cluster: Cluster,
    layout: RankLayout,
    in_flight: tuple[int, ...],
    precision: str,
) -> tuple[StageDevice, ...]:
    """Of each stage, the device of its rank: of the first of the cluster, in order, or of the first groups of `replicas`.

    The replicas of a stage sit side by side, since their gradients are more than what goes to the next stage. They count as
    the slowest of them at the job's precision and the smallest, over the slowest of their links.
    """
    stage_devices = []
    last = len(layout.pipeline_rank_of) - 1
    for s, rank in enumerate(layout.pipeline_rank_of):
        ranks = layout.replica_ranks(rank)
        after = layout.replica_ranks(layout.pipeline_rank_of[min(s + 1, last)])
        link = cluster.slowest_link(zip(ranks, after, strict=True))
        if s < last and not layout.changes_rank(s):
            link = NOWHERE
        devices = [cluster.devices[device] for device in ranks]
        slowest = min(devices, key=lambda device: device.rate(precision))
        memory = min(device.memory for device in devices) - cluster.reserve_of(rank)
        stage_devices.append(
            StageDevice(slowest.kind, memory, in_flight[s], link.bandwidth, link.latency)
        )
    return tuple(stage_devices)


def best_order(
    cluster: Cluster, problem: Problem, stage_devices: Callable[[Cluster], tuple[StageDevice, ...]]
) -> Cluster:
    """The cluster with its nodes in the order whose best chain has the least bottleneck; its own order where none is better.

    `slots` returns the stages' devices in a cluster.
    """
    types: dict[object, list[Device]] = {}
    for node in dict.fromkeys(device.node for device in cluster.devices):
        here = [device for device in cluster.devices if device.node == node]
        link = cluster.inside[node]
        types.setdefault((tuple(d.kind for d in here), link.bandwidth, link.latency), []).extend(
            here
        )
    if not 1 < len(types) <= MOST_TYPES:
        return cluster
    best, least = cluster, _least(problem, stage_devices(cluster))
    for order in permutations(types.values()):
        other = replace(cluster, devices=tuple(device for group in order for device in group))
        found = _least(problem, stage_devices(other))
        # Orders that differ by rounding alone are the user's own.
        if found < least * (1 - 1e-9):
            best, least = other, found
    return best


def _least(problem: Problem, stage_devices: tuple[StageDevice, ...]) -> float:
    placed = replace(problem, stage_devices=stage_devices)
    stages = chain_cuts(placed)
    return bottleneck(placed, stages) if stages is not None else float("inf")
