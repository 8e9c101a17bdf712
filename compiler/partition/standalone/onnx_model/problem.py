"""An ONNX graph on the first devices of a cluster: a forward pass to be split among them.

Costs are roofline estimates. Memory is that of the initializers, with what the largest node reads
and writes. Transfers are direct, as in the published workloads. The model's inputs are on every
device. What depends on no input (shapes, constants, a transposed weight) is free and is made where
it is used, since a runtime folds it when it loads the graph.
"""

from collections import defaultdict
from collections.abc import Iterable

from pipecut.compiler.inputs.cluster import Cluster, Device
from pipecut.compiler.partition.contract import merge_tensors
from pipecut.compiler.partition.problem import (
    Block,
    Duplicated,
    Problem,
    SharedParameter,
    StageDevice,
    TensorUse,
)
from pipecut.compiler.partition.reduce import needed_edges
from pipecut.compiler.partition.standalone.named import NamedProblem
from pipecut.compiler.partition.standalone.onnx_model.fold import OF_SHAPES
from pipecut.compiler.partition.standalone.onnx_model.graph import Node, OnnxGraph
from pipecut.compiler.partition.standalone.onnx_model.work import NodeWork, work_of
from pipecut.errors import UserFileError


def onnx_problem(
    graph: OnnxGraph, cluster: Cluster, devices: int | None, capacity: int | None
) -> NamedProblem:
    """The problem, with the names of the nodes.

    `capacity` in bytes replaces the memory that the cluster's devices have less its reserve. Raises
    UserFileError where the cluster has fewer devices than asked.
    """
    stage_devices = _stage_devices(cluster, devices or len(cluster.devices), capacity)
    folded = _Folded(graph)
    placed = [index for index in range(len(graph.nodes)) if index not in folded.nodes]
    if not placed:
        raise UserFileError(
            "the graph computes nothing of its inputs, so there is nothing to split"
        )
    block_of = {index: block for block, index in enumerate(placed)}
    kinds = {device.kind: device for device in cluster.devices[: len(stage_devices)]}
    blocks = tuple(_block(graph, index, kinds.values()) for index in placed)
    makers = {name: block_of[index] for index in placed for name in graph.nodes[index].outputs}
    users: dict[str, set[int]] = defaultdict(set)
    for index in placed:
        for name in graph.nodes[index].inputs:
            users[name].add(block_of[index])
    before = {(makers[name], user) for name in users if name in makers for user in users[name]}
    tensors = (
        TensorUse(name, maker, consumers, float(graph.tensors[name].bytes), 0.0, 1)
        for name, maker in makers.items()
        if (consumers := tuple(sorted(users[name])))
    )
    problem = Problem(
        blocks,
        needed_edges(before, len(blocks)),
        merge_tensors(tuple(tensors)),
        _initializers(graph, folded, users),
        stage_devices,
        "direct",
        duplicated=_duplicated(folded, users),
    )
    names = [node.name for node in graph.nodes]
    kinds_used = " and ".join(kinds)
    return NamedProblem(problem, names, f"{len(stage_devices)} x {kinds_used} of {cluster.name}")


class _Folded:
    """The nodes that depend on no input, and of each such value, what it is made of."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.nodes: set[int] = set()
        self.initializers = {name: {name} for name in graph.initializers}
        self.makers: dict[str, set[int]] = {name: set() for name in graph.initializers}
        for index, node in enumerate(graph.nodes):
            if self._is_folded(node):
                self._fold(index, node)

    def _is_folded(self, node: Node) -> bool:
        known = all(name in self.makers for name in node.inputs if name)
        return node.operator in OF_SHAPES or (known and not _draws(node))

    def _fold(self, index: int, node: Node) -> None:
        self.nodes.add(index)
        # A shape needs nothing of what it is the shape of.
        inputs = () if node.operator in OF_SHAPES else tuple(filter(None, node.inputs))
        held = set[str]().union(*(self.initializers[name] for name in inputs))
        makers = {index}.union(*(self.makers[name] for name in inputs))
        for name in node.outputs:
            self.initializers[name], self.makers[name] = held, makers


def _draws(node: Node) -> bool:
    return node.operator.startswith("Random") or node.operator in ("Bernoulli", "Multinomial")


def _block(graph: OnnxGraph, index: int, devices: Iterable[Device]) -> Block:
    node = graph.nodes[index]
    work = work_of(node, graph)
    seconds = {device.kind: _seconds(work, device) for device in devices}
    touched = sum(graph.tensors[name].bytes for name in node.outputs)
    return Block((index,), seconds, saved_bytes=0, transient_bytes=touched)


def _seconds(work: NodeWork, device: Device) -> float:
    if not work.flops and not work.bytes:
        return 0.0
    computing, moving = work.flops / device.rate(work.precision), work.bytes / device.bandwidth
    return max(computing, moving) + device.overhead


def _initializers(
    graph: OnnxGraph, folded: _Folded, users: dict[str, set[int]]
) -> tuple[SharedParameter, ...]:
    """Each initializer on every device that uses it."""
    held: dict[str, set[int]] = defaultdict(set)
    for name, blocks in users.items():
        for initializer in folded.initializers.get(name, ()):
            held[initializer] |= blocks
    return tuple(
        SharedParameter(name, graph.tensors[name].bytes, tuple(sorted(blocks)))
        for name, blocks in held.items()
    )


def _duplicated(folded: _Folded, users: dict[str, set[int]]) -> tuple[Duplicated, ...]:
    needing: dict[int, set[int]] = defaultdict(set)
    for name, blocks in users.items():
        for index in folded.makers.get(name, ()):
            needing[index] |= blocks
    return tuple(Duplicated(index, tuple(sorted(needing[index]))) for index in sorted(needing))


def _stage_devices(cluster: Cluster, count: int, capacity: int | None) -> tuple[StageDevice, ...]:
    if count > len(cluster.devices):
        raise UserFileError(
            f"--devices {count}: cluster {cluster.name} has {len(cluster.devices)}; name a larger "
            "one with --cluster (pipecut specs lists them)"
        )
    rows = []
    for index, device in enumerate(cluster.devices[:count]):
        # The last device receives over the link of the one before.
        left = min(index, max(count - 2, 0))
        link = cluster.link(left, min(left + 1, count - 1))
        memory = device.memory - cluster.reserve if capacity is None else capacity
        rows.append(StageDevice(device.kind, memory, 0, link.bandwidth, link.latency))
    return tuple(rows)
