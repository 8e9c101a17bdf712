"""Graph x cluster -> costed graph: seconds by the roofline model, bytes saved for backward.

Roofline (Williams et al., 2009): an operator takes the longer of its FLOPs over the device's rate and its bytes over
the device's memory bandwidth, plus the overhead of a launch; over the part of that which calibrate found operators to reach.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipecut.compiler.costs.work import Work, measure_all
from pipecut.compiler.graph import Graph, Operator
from pipecut.compiler.inputs.cluster import Cluster, Device
from pipecut.compiler.operators.lookup import rule_of, short_name
from pipecut.compiler.operators.rule import ViewWhen
from pipecut.compiler.operators.table import GETITEM
from pipecut.device.types import type_of

# What the operators without a name of their own are called in a cluster file: those with FLOPs, and those without.
PRODUCT, OTHER = "linear", "other"


@dataclass(frozen=True)
class OperatorCost:
    """Seconds by device kind, for one microbatch; bytes autograd keeps that no other value accounts for; bytes for a moment.

    Of those: the result and its gradient, or that and the gradients of what went in, parameters too, of which each microbatch
    has its own before it is added.
    """

    forward: dict[str, float]
    backward: dict[str, float]
    saved_own_bytes: int
    transient_bytes: int


@dataclass(frozen=True)
class CostedGraph:
    """A graph, the cost of each operator, and the storages autograd keeps.

    `saved` maps a storage, named by the value that made it, to its bytes. `storage` maps a value to its storage.
    """

    graph: Graph
    costs: tuple[OperatorCost, ...]
    saved: dict[str, int]
    storage: dict[str, str]

    def seconds(self, index: int, kind: str) -> float:
        """Forward plus backward seconds of one operator."""
        return self.costs[index].forward[kind] + self.costs[index].backward[kind]


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
    measured = measured or {}
    kinds = {device.kind: device for device in cluster.devices}
    works = measure_all(graph, microbatch, device_type_of(cluster))
    storage = _storages(graph)
    held = {p.value for p in graph.parameters} | {b.value for b in graph.buffers}
    saved: dict[str, int] = {}
    costs = []
    for index, (operator, work) in enumerate(zip(graph.operators, works, strict=True)):
        forward_bytes, backward_bytes = _moved(operator, graph, storage)
        forward_bytes, backward_bytes = (
            forward_bytes + work.forward_inner,
            backward_bytes + work.backward_inner,
        )
        parts = {k: _part(d, operator, work) for k, d in kinds.items()}
        forward = {
            k: _seconds(d, work.forward_flops, forward_bytes, precision) / parts[k][0]
            for k, d in kinds.items()
        }
        backward = {k: 0.0 for k in kinds}
        if _differentiable(operator, graph):
            backward = {
                k: _seconds(d, work.backward_flops, backward_bytes, precision) / parts[k][1]
                for k, d in kinds.items()
            }
        forward |= {k: seconds[index][0] for k, seconds in measured.items() if k in kinds}
        backward |= {k: seconds[index][1] for k, seconds in measured.items() if k in kinds}
        costs.append(
            OperatorCost(forward, backward, work.saved_own_bytes, _transient_bytes(operator, graph))
        )
        _note_saved(operator, work, graph, storage, held, saved)
    return CostedGraph(graph, tuple(costs), saved, storage)


def device_type_of(cluster: Cluster) -> str:
    """The type whose kernels are counted: a plan has devices of one type."""
    types = [type_of(device.type) for device in cluster.devices]
    return next((kind for kind in types if kind.fused_kernels), types[0]).name


def _note_saved(
    operator: Operator,
    work: Work,
    graph: Graph,
    storage: dict[str, str],
    held: set[str],
    saved: dict[str, int],
) -> None:
    names = [operator.inputs[i] for i in work.saved_inputs] + (
        [operator.name] if work.saves_output else []
    )
    for name in names:
        root = storage.get(name, name)
        if root not in held and root in graph.values:
            saved[root] = graph.values[root].bytes


def _storages(graph: Graph) -> dict[str, str]:
    """Value -> the value that made its storage. A result of the same size at an offset is taken for a view."""
    roots: dict[str, str] = {name: name for name in graph.values}
    for operator in graph.operators:
        if operator.aliases and _is_view(operator, graph):
            roots[operator.name] = roots.get(operator.aliases[0], operator.aliases[0])
    return roots


def _is_view(operator: Operator, graph: Graph) -> bool:
    source, result = graph.values.get(operator.aliases[0]), graph.values.get(operator.name)
    if source is None or result is None:
        return True
    rule = rule_of(operator.target)
    match rule.view_when:
        case ViewWhen.ALWAYS:
            return True
        case ViewWhen.SAME_DTYPE:
            return source.dtype == result.dtype
        case ViewWhen.SAME_STRIDES:
            return source.strides == result.strides
        case ViewWhen.DENSE_INPUT:
            return _contiguous(source.sizes, source.strides)
        case ViewWhen.NOTHING_DROPPED:
            _, chance, training = (*operator.args, None, None)[:3]
            return chance == 0.0 or training is False


def _contiguous(sizes: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=False):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _transient_bytes(operator: Operator, graph: Graph) -> int:
    result = _result_bytes(operator, graph)
    values = [graph.values[name] for name in operator.inputs if name in graph.values]
    inwards = (
        sum(v.bytes for v in values if v.needs_grad) if _differentiable(operator, graph) else 0
    )
    return result + max(result, inwards)


def _result_bytes(operator: Operator, graph: Graph) -> int:
    if operator.name in graph.values:
        return graph.values[operator.name].bytes
    parts = (
        [v.bytes for name, v in graph.values.items() if name.startswith(f"{operator.name}[")]
        if operator.target
        else []
    )
    return sum(parts)


def _moved(operator: Operator, graph: Graph, storage: dict[str, str]) -> tuple[float, float]:
    """Bytes read and written forward, and backward: gradients out and in beside what was read."""
    result = graph.values.get(operator.name)
    if operator.target == GETITEM or (
        result is not None and storage[operator.name] != operator.name and not operator.writes
    ):
        return 0.0, 0.0
    read = sum(graph.values[name].bytes for name in operator.inputs if name in graph.values)
    written = result.bytes if result is not None else read
    if rule_of(operator.target).gathers:
        return 2.0 * written, 2.0 * written + read
    return float(read + written), float(2 * written + 2 * read)


def _differentiable(operator: Operator, graph: Graph) -> bool:
    value = graph.values.get(operator.name)
    return (
        value.needs_grad
        if value is not None
        else any(graph.values[name].needs_grad for name in operator.inputs if name in graph.values)
    )


def _part(device: Device, operator: Operator, work: Work) -> tuple[float, float]:
    """What part of the roofline an operator reaches, forward and backward."""
    parts = dict(device.operators)
    rest = parts.get(PRODUCT if work.forward_flops else OTHER, (1.0, 1.0))
    return parts.get(short_name(operator.target), rest)


def _seconds(device: Device, flops: float, moved: float, precision: str) -> float:
    if flops == 0 and moved == 0:
        return 0.0
    return max(flops / device.rate(precision), moved / device.bandwidth) + device.overhead
