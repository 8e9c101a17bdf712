"""Seconds that a stage computes, and that its replicas take to sum gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.operators.lookup import rule_of
from pipecut.compiler.partition.coarsen.parameter_bytes import stage_tensor
from pipecut.compiler.stages.cut import Cut
from pipecut.device.types import type_of


@dataclass(frozen=True)
class StageSeconds:
    """Seconds per microbatch; `reduce` is per step, to sum gradients over replicas.

    `weights` are those of `backward` that a schedule which splits backward puts off; else 0.
    """

    forward: float
    backward: float
    weights: float = 0.0
    reduce: float = 0.0


def compute_seconds(
    costed: CostedGraph, cut: Cut, kind: str, splits_backward: bool
) -> StageSeconds:
    """A stage's seconds on a kind of device, without sums over replicas."""
    costs = [costed.costs[index] for index in cut.operators]
    return StageSeconds(
        forward=sum(cost.forward[kind] for cost in costs),
        backward=sum(cost.backward[kind] for cost in costs),
        weights=weight_seconds(costed, cut, kind) if splits_backward else 0.0,
    )


def weight_seconds(costed: CostedGraph, cut: Cut, kind: str) -> float:
    """Seconds of a stage's backward for gradients of weights that may be put off.

    They are half of a product's backward: both gradients are products of as many FLOPs. Where the
    other factor needs no gradient, that of the weight is all there is.
    """
    graph = costed.graph
    trained = {parameter.value for parameter in cut.parameters if parameter.trainable}
    total = 0.0
    for index in cut.operators:
        operator = graph.operators[index]
        if not (rule_of(operator.target).weight_gradient_later and trained & set(operator.inputs)):
            continue
        others = [name for name in operator.inputs if name not in trained and name in graph.values]
        both = any(graph.values[name].needs_grad for name in others)
        total += costed.costs[index].backward[kind] / (2 if both else 1)
    return total


def reduce_seconds(cluster: Cluster, cut: Cut, devices: Sequence[int]) -> float:
    """Seconds to sum a stage's gradients over the devices of its replicas.

    With a sharded optimizer each sum goes to one replica, and stepped rows come back: as much.
    """
    size = sum(stage_tensor(parameter).gradient_bytes for parameter in cut.parameters)
    return ring_seconds(cluster, devices, size)


def ring_seconds(cluster: Cluster, devices: Sequence[int], size: int) -> float:
    """Seconds to sum that many bytes over devices in a ring.

    Each sends them 2 (r - 1) / r times, in 2 (r - 1) messages (Patarasuk and Yuan, 2009). It
    receives as much meanwhile, which a CPU's core has to carry too, and add.
    """
    count = len(devices)
    if count == 1:
        return 0.0
    link = cluster.slowest_link(pairwise(devices))
    device = cluster.devices[devices[0]]
    part = size / count
    seconds = part / link.bandwidth
    if type_of(device.type).host_carries:
        # Adding reads two parts and writes one, in half of the messages.
        adding = 3 * part / device.bandwidth / 2
        seconds = 2 * part / link.bandwidth + adding
    return 2 * (count - 1) * (seconds + link.latency)
