"""The device of each stage and the order of nodes, from clusters made by hand."""

from dataclasses import replace

from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.partition.node_order import best_order, stage_devices_for
from pipecut.compiler.partition.problem import StageDevice
from pipecut.plan.layout import RankLayout
from tests.compiler.partition.problems import block, chain
from tests.costs import made_cluster, made_device, made_link

SLOW, FAST = made_device("slow", node=0), made_device("fast", node=1, flops=(("fp32", 2e9),))


def test_each_stage_takes_the_next_device() -> None:
    cluster = made_cluster([SLOW, FAST], reserve=100)
    first, last = stage_devices_for(cluster, RankLayout((0, 1)), (2, 1), "fp32")
    assert first == StageDevice("slow", 2**30 - 100, 2, 1e9, 0.0)
    assert (last.kind, last.in_flight) == ("fast", 1)


def test_replicas_count_as_the_slowest_and_the_smallest_of_them() -> None:
    small = replace(FAST, memory=1000)
    cluster = made_cluster([replace(SLOW, node=0), small, SLOW, SLOW])
    (first, _) = stage_devices_for(cluster, RankLayout((0, 1), replicas=2), (2, 1), "fp32")
    assert first.kind == "slow" and first.capacity == 1000


def test_the_slowest_link_between_replicas_counts() -> None:
    cluster = replace(made_cluster([SLOW, FAST]), network=made_link("1MB/s", "1s"))
    first, last = stage_devices_for(cluster, RankLayout((0, 1)), (2, 1), "fp32")
    assert (first.bandwidth, first.latency) == (1e6, 1.0) and last.bandwidth == 1e9


def test_nothing_moves_between_stages_of_one_rank() -> None:
    devices = stage_devices_for(made_cluster(2), RankLayout((0, 1, 1, 0)), (1,) * 4, "fp32")
    assert [device.bandwidth > 1e15 for device in devices] == [False, True, False, False]


def stage_devices(cluster: Cluster) -> tuple[StageDevice, ...]:
    """Two stages, the first with two microbatches in flight."""
    return stage_devices_for(cluster, RankLayout((0, 1)), (2, 1), "fp32")


def test_the_node_with_memory_takes_the_stage_with_most_in_flight() -> None:
    tight, roomy = made_device("tight", 0, memory=10), made_device("roomy", 1, memory=20)
    blocks = tuple(
        replace(block(0.0, saved=10), seconds={"tight": 1.0, "roomy": 1.0}) for _ in "ab"
    )
    problem = replace(chain([1.0] * 2, 2), blocks=blocks)
    ordered = best_order(made_cluster([tight, roomy]), problem, stage_devices)
    assert [device.kind for device in ordered.devices] == ["roomy", "tight"]


def test_equal_orders_stay_as_they_are() -> None:
    cluster = made_cluster([made_device("a", 0), made_device("b", 1)])
    blocks = tuple(replace(block(0.0), seconds={"a": 1.0, "b": 1.0}) for _ in "ab")
    problem = replace(chain([1.0] * 2, 2), blocks=blocks)
    assert best_order(cluster, problem, stage_devices) is cluster
