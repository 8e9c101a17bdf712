"""A costed graph in the published placement format (Tarnawski et al., NeurIPS 2020) -> a problem.

`nodes` have id, fpgaLatency (time on a device), size (bytes), colorClass (nodes of one class sit together) and
isBackwardNode; `edges` have sourceId, destId and cost, the time to move the source's output off or onto a device.
"""

from collections import defaultdict
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
from pipecut.errors import UserFileError


def published_problem(
    data: dict[str, Any], where: str, devices: int | None, capacity: int | None
) -> tuple[Problem, list[Any]]:
    """The problem, transfers direct, and the node id of each operator index. Raises UserFileError."""
    try:
        nodes = {node["id"]: node for node in data["nodes"]}
        edges = [(edge["sourceId"], edge["destId"], float(edge["cost"])) for edge in data["edges"]]
        count = devices or int(data["maxFPGAs"])
        limit = capacity if capacity is not None else int(data["maxSizePerFPGA"])
        times = {v: float(node["fpgaLatency"]) for v, node in nodes.items()}
        sizes = {v: round(float(node["size"])) for v, node in nodes.items()}
        unknown = next((v for u, w, _ in edges for v in (u, w) if v not in nodes), None)
    except (KeyError, TypeError, ValueError) as error:
        raise UserFileError(
            f"{where}: not the published format: {type(error).__name__} {error}"
        ) from None
    if unknown is not None:
        raise UserFileError(f"{where}: an edge names node {unknown}, which is not among the nodes")
    if not nodes or count < 1:
        raise UserFileError(f"{where}: needs at least one node and one device")
    groups = _ordered_groups(nodes, edges)
    block_of = {v: at for at, group in enumerate(groups) for v in group}
    ids = list(nodes)
    index = {v: at for at, v in enumerate(ids)}
    blocks = tuple(
        Block(tuple(index[v] for v in group), {"device": sum(times[v] for v in group)}, 0, 0)
        for group in groups
    )
    users: dict[Any, set[int]] = defaultdict(set)
    cost: dict[Any, float] = {}
    before = set()
    for u, v, seconds in edges:
        users[u].add(block_of[v])
        cost[u] = max(cost.get(u, 0.0), seconds)
        if (
            not nodes[u].get("isBackwardNode")
            and not nodes[v].get("isBackwardNode")
            and block_of[u] != block_of[v]
        ):
            before.add((block_of[u], block_of[v]))
    tensors = tuple(
        TensorUse(str(u), block_of[u], using, cost[u], 0.0, 0)
        for u in users
        if cost[u] > 0 and (using := tuple(sorted(users[u] - {block_of[u]})))
    )
    shared = tuple(
        SharedParameter(str(at), sum(sizes[v] for v in group), (at,))
        for at, group in enumerate(groups)
    )
    # A cost is a time already: one byte a second and nothing kept in flight.
    stage_devices = (StageDevice("device", limit, 0, 1.0, 0.0),) * count
    return Problem(
        blocks,
        needed_edges(before, len(blocks)),
        merge_tensors(tensors),
        shared,
        stage_devices,
        "direct",
    ), ids


def _ordered_groups(nodes: dict[Any, Any], edges: list[tuple[Any, Any, float]]) -> list[list[Any]]:
    """Colour classes, merged where they make a cycle, in a topological order of the forward edges."""
    color = {v: node.get("colorClass", ("own", v)) for v, node in nodes.items()}
    between: nx.DiGraph[Any] = nx.DiGraph()
    between.add_nodes_from(color.values())
    for u, v, _ in edges:
        if (
            not nodes[u].get("isBackwardNode")
            and not nodes[v].get("isBackwardNode")
            and color[u] != color[v]
        ):
            between.add_edge(color[u], color[v])
    condensed = nx.condensation(between)
    members: dict[int, list[Any]] = defaultdict(list)
    for v in nodes:
        members[condensed.graph["mapping"][color[v]]].append(v)
    return [members[group] for group in depth_first_order(condensed)]
