"""Operators that no cut may separate, in an order that stages may follow."""

from collections import defaultdict

import networkx as nx

from pipecut.compiler.graph import Graph
from pipecut.compiler.operators.lookup import rule_of

# Operators by index, in groups.
Groups = nx.utils.UnionFind


def inseparable(graph: Graph, written: dict[str, list[int]]) -> "Groups[int]":
    """Results with their parts, and whatever touches storage that is written.

    `written` has the operators of each such storage.
    """
    groups: Groups[int] = Groups(range(len(graph.operators)))
    producers = graph.producers()
    for index, operator in enumerate(graph.operators):
        if rule_of(operator.target).part_of_input:
            groups.union(*(producers[name] for name in operator.inputs if name in producers), index)
    for touching in written.values():
        if touching:
            groups.union(*touching)
    return groups


def written_storages(graph: Graph) -> dict[str, list[int]]:
    """Storage -> the operators that touch it up to its last write.

    All that touch it where it is a parameter, a buffer or an input, and outlives the step.
    """
    roots, producers = graph.roots(), graph.producers()
    touching: dict[str, list[int]] = defaultdict(list)
    last_write: dict[str, int] = {}
    for index, operator in enumerate(graph.operators):
        if not operator.aliases:
            touching[operator.name].append(index)
        for name in {roots.get(name, name) for name in operator.inputs}:
            touching[name].append(index)
        for name in operator.writes:
            last_write[roots.get(name, name)] = index
    return {
        name: [index for index in touching[name] if index <= last or name not in producers]
        for name, last in last_write.items()
    }


def ordered_groups(dependencies: "nx.DiGraph[int]", groups: "Groups[int]") -> list[list[int]]:
    """Groups without cycles between them, in the topological order closest to program order."""
    between: nx.DiGraph[int] = nx.DiGraph()
    between.add_nodes_from(groups[index] for index in dependencies)
    between.add_edges_from(
        (groups[u], groups[v]) for u, v in dependencies.edges if groups[u] != groups[v]
    )
    condensed = nx.condensation(between)
    members: dict[int, list[int]] = defaultdict(list)
    for index in sorted(dependencies):
        members[condensed.graph["mapping"][groups[index]]].append(index)
    order = nx.lexicographical_topological_sort(condensed, key=lambda group: max(members[group]))
    return [members[group] for group in order]
