"""A costed graph in the published placement format (Tarnawski et al., NeurIPS 2020) -> a problem.

`nodes` have id, fpgaLatency (time on a device), size (bytes), colorClass (nodes of one class sit
together) and isBackwardNode; `edges` have sourceId, destId and cost, the time to move the source's
output off or onto a device.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import networkx as nx

from pipecut.compiler.partition.contract import merge_tensors
from pipecut.compiler.partition.problem import (
    Block,
    Problem,
    SharedParameter,
    StageDevice,
    TensorUse,
)
from pipecut.compiler.partition.reduce import depth_first_order, needed_edges
from pipecut.compiler.partition.standalone.named import NamedProblem
from pipecut.errors import UserFileError

KIND = "device"


@dataclass(frozen=True)
class _Node:
    """`color` is what nodes that sit together have in common."""

    seconds: float
    bytes: int
    color: Any
    is_backward: bool


@dataclass(frozen=True)
class _Edge:
    source: Any
    user: Any
    seconds: float


@dataclass(frozen=True)
class _Graph:
    """Nodes by id, in the file's order; devices and bytes per device."""

    nodes: dict[Any, _Node]
    edges: list[_Edge]
    devices: int
    capacity: int

    def forward_edges(self) -> list[_Edge]:
        """The edges between nodes of forward, which say what comes first."""
        return [
            edge
            for edge in self.edges
            if not (self.nodes[edge.source].is_backward or self.nodes[edge.user].is_backward)
        ]


def published_problem(
    data: dict[str, Any], where: str, devices: int | None, capacity: int | None
) -> NamedProblem:
    """The problem, transfers direct, with the nodes' ids. Raises UserFileError.

    `devices` and `capacity` in bytes replace what the file says.
    """
    graph = _read(data, where, devices, capacity)
    groups = _ordered_groups(graph)
    names = list(graph.nodes)
    index_of = {name: index for index, name in enumerate(names)}
    block_of = {name: block for block, group in enumerate(groups) for name in group}
    blocks = tuple(
        Block(
            tuple(index_of[name] for name in group),
            {KIND: sum(graph.nodes[name].seconds for name in group)},
            saved_bytes=0,
            transient_bytes=0,
        )
        for group in groups
    )
    before = {
        (block_of[edge.source], block_of[edge.user])
        for edge in graph.forward_edges()
        if block_of[edge.source] != block_of[edge.user]
    }
    shared = tuple(
        SharedParameter(str(block), sum(graph.nodes[name].bytes for name in group), (block,))
        for block, group in enumerate(groups)
    )
    # A cost is a time already: one byte per second, and nothing is kept in flight.
    device = StageDevice(KIND, graph.capacity, in_flight=0, bandwidth=1.0, latency=0.0)
    problem = Problem(
        blocks,
        needed_edges(before, len(blocks)),
        merge_tensors(_tensors(graph, block_of)),
        shared,
        (device,) * graph.devices,
        "direct",
    )
    return NamedProblem(problem, names)


def _read(data: dict[str, Any], where: str, devices: int | None, capacity: int | None) -> _Graph:
    try:
        nodes = {node["id"]: _node(node) for node in data["nodes"]}
        edges = [
            _Edge(edge["sourceId"], edge["destId"], float(edge["cost"])) for edge in data["edges"]
        ]
        count = devices or int(data["maxFPGAs"])
        limit = capacity if capacity is not None else int(data["maxSizePerFPGA"])
        named = (name for edge in edges for name in (edge.source, edge.user))
        unknown = next((name for name in named if name not in nodes), None)
    except (KeyError, TypeError, ValueError) as error:
        raise UserFileError(
            f"{where}: not the published format: {type(error).__name__} {error}"
        ) from None
    if unknown is not None:
        raise UserFileError(f"{where}: an edge names node {unknown}, which is not among the nodes")
    if not nodes or count < 1:
        raise UserFileError(f"{where}: needs at least one node and one device")
    return _Graph(nodes, edges, count, limit)


def _node(node: dict[str, Any]) -> _Node:
    return _Node(
        float(node["fpgaLatency"]),
        round(float(node["size"])),
        # A node of no class is a class of its own.
        node.get("colorClass", ("node", node["id"])),
        bool(node.get("isBackwardNode")),
    )


def _tensors(graph: _Graph, block_of: dict[Any, int]) -> tuple[TensorUse, ...]:
    """The output of each node that other blocks use, where it takes time to move."""
    users: dict[Any, set[int]] = defaultdict(set)
    seconds: dict[Any, float] = {}
    for edge in graph.edges:
        users[edge.source].add(block_of[edge.user])
        seconds[edge.source] = max(seconds.get(edge.source, 0.0), edge.seconds)
    return tuple(
        TensorUse(str(name), block_of[name], consumers, seconds[name], 0.0, 0)
        for name in users
        if seconds[name] > 0 and (consumers := tuple(sorted(users[name] - {block_of[name]})))
    )


def _ordered_groups(graph: _Graph) -> list[list[Any]]:
    """Colour classes, merged where they make a cycle, in an order of the forward edges."""
    between: nx.DiGraph[Any] = nx.DiGraph()
    between.add_nodes_from(node.color for node in graph.nodes.values())
    for edge in graph.forward_edges():
        colors = graph.nodes[edge.source].color, graph.nodes[edge.user].color
        if colors[0] != colors[1]:
            between.add_edge(*colors)
    condensed = nx.condensation(between)
    members: dict[int, list[Any]] = defaultdict(list)
    for name, node in graph.nodes.items():
        members[condensed.graph["mapping"][node.color]].append(name)
    return [members[group] for group in depth_first_order(condensed)]
