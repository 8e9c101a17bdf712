"""Which nodes take the first stages and which the last.

Unequal nodes make a difference twice: the first stages hold the most microbatches in flight, and
the network between two nodes is best where few bytes cross. Nodes of one type stay side by side;
every order of the types is tried on the chain.
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
# Orders that differ only by rounding are equal: then the user's order stays.
ROUNDING = 1e-9
# Between stages of one device nothing moves.
NO_LINK = Link.model_validate({"bandwidth": "1000000TB/s", "latency": "0us"})


def stage_devices_for(
    cluster: Cluster, layout: RankLayout, in_flight: tuple[int, ...], precision: str
) -> tuple[StageDevice, ...]:
    """For each stage, the device of its pipeline rank; ranks take the cluster's devices in order.

    The replicas of a rank sit side by side, since their gradients are more than what goes to the
    next stage. They count as the slowest of them at the job's precision and the smallest, over the
    slowest of their links.
    """
    stage_devices = []
    for stage, rank in enumerate(layout.pipeline_rank_of):
        devices = [cluster.devices[index] for index in layout.replica_ranks(rank)]
        link = _link_after(cluster, layout, stage)
        slowest = min(devices, key=lambda device: device.rate(precision))
        capacity = min(device.memory for device in devices) - cluster.reserve_of(rank)
        stage_devices.append(
            StageDevice(slowest.kind, capacity, in_flight[stage], link.bandwidth, link.latency)
        )
    return tuple(stage_devices)


def _link_after(cluster: Cluster, layout: RankLayout, stage: int) -> Link:
    """The slowest link from a stage's devices to those of the next; the last stage's to itself."""
    last = len(layout.pipeline_rank_of) - 1
    if stage < last and not layout.changes_rank(stage):
        return NO_LINK
    ranks = layout.replica_ranks(layout.pipeline_rank_of[stage])
    following = layout.replica_ranks(layout.pipeline_rank_of[min(stage + 1, last)])
    return cluster.slowest_link(zip(ranks, following, strict=True))


def best_order(
    cluster: Cluster, problem: Problem, stage_devices: Callable[[Cluster], tuple[StageDevice, ...]]
) -> Cluster:
    """The cluster with its nodes in the order whose best chain has the least bottleneck.

    The cluster as it is where no order is better. `stage_devices` returns the stages' devices in a
    cluster.
    """
    types = _devices_by_type(cluster)
    if not 1 < len(types) <= MOST_TYPES:
        return cluster
    best, least = cluster, _least_bottleneck(problem, stage_devices(cluster))
    for order in permutations(types):
        reordered = replace(cluster, devices=tuple(device for group in order for device in group))
        seconds = _least_bottleneck(problem, stage_devices(reordered))
        if seconds < least * (1 - ROUNDING):
            best, least = reordered, seconds
    return best


def _devices_by_type(cluster: Cluster) -> list[list[Device]]:
    """The devices of all nodes of each type: of one list of kinds, over one link inside."""
    types: dict[object, list[Device]] = {}
    for node in dict.fromkeys(device.node for device in cluster.devices):
        devices = [device for device in cluster.devices if device.node == node]
        link = cluster.inside[node]
        key = tuple(device.kind for device in devices), link.bandwidth, link.latency
        types.setdefault(key, []).extend(devices)
    return list(types.values())


def _least_bottleneck(problem: Problem, stage_devices: tuple[StageDevice, ...]) -> float:
    placed = replace(problem, stage_devices=stage_devices)
    stages = chain_cuts(placed)
    return bottleneck(placed, stages) if stages is not None else float("inf")
