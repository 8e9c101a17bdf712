"""Graph x cluster -> costed graph: seconds by the roofline model, bytes saved for backward.

Roofline (Williams et al., 2009): an operator takes the longer of its FLOPs over the device's rate
and its bytes over the device's memory bandwidth, plus the overhead of a launch. `calibrate` finds
which fraction of that each operator achieves; seconds are divided by it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipecut.compiler.costs.storage import storages
from pipecut.compiler.costs.work import Work, measure_all
from pipecut.compiler.graph import Graph, Operator
from pipecut.compiler.inputs.cluster import Cluster, Device
from pipecut.compiler.operators.lookup import rule_of, short_name
from pipecut.compiler.operators.table import GETITEM, SIZE
from pipecut.device.types import type_of

# What a cluster file calls operators that it does not name: those with FLOPs, and those without.
PRODUCT, OTHER = "linear", "other"


@dataclass(frozen=True)
class OperatorCost:
    """Seconds by device kind for one microbatch, and bytes.

    `saved_own_bytes`: what autograd keeps beside values of the graph.
    `transient_bytes`: the result and its gradient, or the result and the gradients of the inputs,
    whichever is more. Parameters count too: each microbatch has its own gradient of them before
    that is added.
    """

    forward: dict[str, float]
    backward: dict[str, float]
    saved_own_bytes: int
    transient_bytes: int


@dataclass(frozen=True)
class CostedGraph:
    """A graph, the cost of each operator, and the storages autograd keeps.

    `saved` maps a storage, named by the value that made it, to its bytes; `storage` a value to its
    storage. `flops` are those of a microbatch, forward and backward.
    """

    graph: Graph
    costs: tuple[OperatorCost, ...]
    saved: dict[str, int]
    storage: dict[str, str]
    flops: float = 0.0

    def seconds(self, index: int, kind: str) -> float:
        """Forward plus backward seconds of one operator."""
        return self.costs[index].forward[kind] + self.costs[index].backward[kind]


@dataclass(frozen=True)
class _PerPass:
    """A number for the forward pass and one for the backward pass."""

    forward: float
    backward: float


def cost(
    graph: Graph,
    cluster: Cluster,
    precision: str,
    microbatch: int,
    measured: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> CostedGraph:
    """Cost every operator for one microbatch on every kind of device of the cluster.

    `measured` has forward and backward seconds of every operator for kinds that were profiled.
    """
    kinds = {device.kind: device for device in cluster.devices}
    works = measure_all(graph, microbatch, device_type_of(cluster))
    storage = storages(graph)
    costs = []
    for index, (operator, work) in enumerate(zip(graph.operators, works, strict=True)):
        seconds = {
            kind: _seconds(device, operator, work, graph, storage, precision)
            for kind, device in kinds.items()
        }
        for kind in kinds.keys() & (measured or {}).keys():
            assert measured is not None
            seconds[kind] = _PerPass(*measured[kind][index])
        costs.append(
            OperatorCost(
                forward={kind: both.forward for kind, both in seconds.items()},
                backward={kind: both.backward for kind, both in seconds.items()},
                saved_own_bytes=work.saved_own_bytes,
                transient_bytes=_transient_bytes(operator, graph),
            )
        )
    flops = sum(
        work.forward_flops + (work.backward_flops if _differentiable(operator, graph) else 0)
        for operator, work in zip(graph.operators, works, strict=True)
    )
    return CostedGraph(graph, tuple(costs), _saved(graph, works, storage), storage, float(flops))


def device_type_of(cluster: Cluster) -> str:
    """The type whose kernels are counted: a plan has devices of one type."""
    types = [type_of(device.type) for device in cluster.devices]
    return next((kind for kind in types if kind.fused_kernels), types[0]).name


def _saved(graph: Graph, works: Sequence[Work], storage: Mapping[str, str]) -> dict[str, int]:
    """Bytes of each storage that autograd keeps, but for parameters and buffers."""
    held = {p.value for p in graph.parameters} | {b.value for b in graph.buffers}
    saved = {}
    for operator, work in zip(graph.operators, works, strict=True):
        for name in _saved_values(operator, work):
            maker = storage.get(name, name)
            if maker not in held and maker in graph.values:
                saved[maker] = graph.values[maker].bytes
    return saved


def _saved_values(operator: Operator, work: Work) -> Iterator[str]:
    yield from (operator.inputs[position] for position in work.saved_inputs)
    if work.saves_output:
        yield operator.name


def _seconds(
    device: Device,
    operator: Operator,
    work: Work,
    graph: Graph,
    storage: Mapping[str, str],
    precision: str,
) -> _PerPass:
    moved = _moved_bytes(operator, graph, storage)
    achieved = _achieved_fractions(device, operator, work)
    forward_bytes = moved.forward + work.forward_inner
    backward_bytes = moved.backward + work.backward_inner
    forward = _roofline(device, work.forward_flops, forward_bytes, precision)
    backward = _roofline(device, work.backward_flops, backward_bytes, precision)
    if not _differentiable(operator, graph):
        backward = 0.0
    return _PerPass(forward / achieved.forward, backward / achieved.backward)


def _roofline(device: Device, flops: float, moved_bytes: float, precision: str) -> float:
    if flops == 0 and moved_bytes == 0:
        return 0.0
    computing, moving = flops / device.rate(precision), moved_bytes / device.bandwidth
    return max(computing, moving) + device.overhead


def _achieved_fractions(device: Device, operator: Operator, work: Work) -> _PerPass:
    """Which fraction of the roofline an operator achieves."""
    fractions = dict(device.operators)
    default = fractions.get(PRODUCT if work.forward_flops else OTHER, (1.0, 1.0))
    return _PerPass(*fractions.get(short_name(operator.target), default))


def _moved_bytes(operator: Operator, graph: Graph, storage: Mapping[str, str]) -> _PerPass:
    """Bytes read and written: backward, the result's and the inputs' gradients beside them."""
    result = graph.values.get(operator.name)
    is_view = result is not None and storage[operator.name] != operator.name
    if operator.target in (GETITEM, SIZE) or (is_view and not operator.writes):
        return _PerPass(0.0, 0.0)
    read = sum(graph.values[name].bytes for name in operator.inputs if name in graph.values)
    written = result.bytes if result is not None else read
    if rule_of(operator.target).gathers:
        return _PerPass(2.0 * written, 2.0 * written + read)
    return _PerPass(float(read + written), float(2 * written + 2 * read))


def _transient_bytes(operator: Operator, graph: Graph) -> int:
    result = sum(graph.values[name].bytes for name in graph.results_of(operator))
    gradients = 0
    if _differentiable(operator, graph):
        values = (graph.values[name] for name in operator.inputs if name in graph.values)
        gradients = sum(value.bytes for value in values if value.needs_grad)
    return result + max(result, gradients)


def _differentiable(operator: Operator, graph: Graph) -> bool:
    result = graph.values.get(operator.name)
    if result is not None:
        return result.needs_grad
    return any(graph.values[name].needs_grad for name in operator.inputs if name in graph.values)
