"""Operators that no cut may separate, in an order that stages may follow."""

from collections import defaultdict

import networkx as nx

from pipecut.compiler.graph import Graph, names_in
from pipecut.compiler.operators.lookup import rule_of

# Operators by index, in groups.
Groups = nx.utils.UnionFind


def inseparable(graph: Graph, written: dict[str, list[int]]) -> "Groups[int]":
    """Results with their parts, and the operators that are `kept_together`, in `written`."""
    groups: Groups[int] = Groups(range(len(graph.operators)))
    producers = graph.producers()
    for index, operator in enumerate(graph.operators):
        if rule_of(operator.target).part_of_input:
            groups.union(*(producers[name] for name in operator.inputs if name in producers), index)
    for touching in written.values():
        if touching:
            groups.union(*touching)
    return groups


def kept_together(graph: Graph) -> dict[str, list[int]]:
    """What no boundary may lie between: operators by the storage or the size that they share."""
    return written_storages(graph) | _of_data_sizes(graph)


def _of_data_sizes(graph: Graph) -> dict[str, list[int]]:
    """For each size that depends on data, the operators that make or use tensors of it."""
    touching: dict[str, list[int]] = {name: [] for name in graph.data_sizes}
    if not touching:
        return touching
    sizes_of = {
        name: {size for dimension in value.shape for size in names_in(str(dimension))}
        & touching.keys()
        for name, value in graph.values.items()
    }
    for index, operator in enumerate(graph.operators):
        names = (*operator.inputs, operator.name, *graph.results_of(operator))
        used = {size for name in names for size in sizes_of.get(name, ())}
        for size in used | (touching.keys() & {*names}):
            touching[size].append(index)
    return touching


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
