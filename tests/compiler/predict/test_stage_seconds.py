"""Seconds of stages: sums of their operators, what may be put off, and sums in a ring."""

from dataclasses import replace

import pytest

from pipecut.compiler.costs.roofline import CostedGraph, OperatorCost
from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.cluster import Cluster, Device, Link
from pipecut.compiler.predict.stage_seconds import (
    compute_seconds,
    reduce_seconds,
    ring_seconds,
    weight_seconds,
)
from pipecut.compiler.stages.cut import cut
from tests.compiler.chain_graphs import chain

KIND = "core"


def costed(graph: Graph, forward: float = 1.0, backward: float = 4.0) -> CostedGraph:
    """Every operator takes the same."""
    cost = OperatorCost({KIND: forward}, {KIND: backward}, 0, 0)
    return CostedGraph(graph, (cost,) * len(graph.operators), {}, {})


def cluster(devices: int, type_name: str = "cuda", latency: float = 0.0) -> Cluster:
    device = Device(KIND, 0, type_name, 2**30, 100.0, (("fp32", 1.0),), 0.0, 1.0)  # type: ignore[arg-type]
    link = Link.model_validate({"bandwidth": "1B/s", "latency": f"{latency}s"})
    return Cluster("made", (device,) * devices, (link,), None, 0)


def test_a_stage_takes_what_its_operators_take() -> None:
    first, second = cut(chain(3), [(0,), (0,), (1,), (1,)], 2)
    seconds = [compute_seconds(costed(chain(3)), stage, KIND, False) for stage in (first, second)]
    assert [stage.forward for stage in seconds] == [2.0, 2.0]
    assert [stage.backward for stage in seconds] == [8.0, 8.0]
    assert [stage.weights for stage in seconds] == [0.0, 0.0]


def test_half_of_a_products_backward_may_be_put_off() -> None:
    graph = chain(2)
    (stage,) = cut(graph, [(0,), (0,), (0,)], 1)
    # Of the first layer the input needs no gradient, so that all of its backward is the weight's;
    # the sum has no weight.
    assert weight_seconds(costed(graph), stage, KIND) == 4.0 + 4.0 / 2
    assert compute_seconds(costed(graph), stage, KIND, True).weights == 6.0


def test_a_frozen_weight_puts_nothing_off() -> None:
    graph = chain(1)
    frozen = replace(graph.parameters[0], trainable=False)
    graph = replace(graph, parameters=(frozen,))
    (stage,) = cut(graph, [(0,), (0,)], 1)
    assert weight_seconds(costed(graph), stage, KIND) == 0.0


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_a_ring_sends_each_part_twice_around(devices: int) -> None:
    # 12 bytes over links of 1 byte per second: 2 (r - 1) messages of 12 / r bytes.
    messages = 2 * (devices - 1)
    seconds = ring_seconds(cluster(devices, latency=0.5), range(devices), 12)
    assert seconds == pytest.approx(messages * (12 / devices + 0.5))


def test_a_cpu_also_carries_what_it_receives_and_adds() -> None:
    by_gpu = ring_seconds(cluster(2), range(2), 12)
    by_cpu = ring_seconds(cluster(2, "cpu"), range(2), 12)
    # Two messages of 6 bytes: received as well as sent; 3 x 6 bytes in memory for half of them.
    assert by_cpu == pytest.approx(2 * by_gpu + 2 * 3 * 6 / 100 / 2)


def test_one_device_sums_nothing() -> None:
    assert ring_seconds(cluster(1), [0], 12) == 0.0


def test_replicas_sum_the_gradients_of_a_stages_parameters() -> None:
    (stage,) = cut(chain(2), [(0,), (0,), (0,)], 1)
    # Two weights of 4 x 4 float32 numbers.
    seconds = reduce_seconds(cluster(2), stage, [0, 1])
    assert seconds == ring_seconds(cluster(2), [0, 1], 2 * 16 * 4)
