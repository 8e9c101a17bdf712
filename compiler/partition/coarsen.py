"""Costed graph -> blocks that a cut may separate.

Kept together: a result and its parts, whatever shares storage that is written (up to the last write), and cycles this
makes. Then views join what they view where that cannot cost anything.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache

import networkx as nx

from pipecut.compiler.constraints import Constraints
from pipecut.compiler.costs import CostedGraph
from pipecut.compiler.graph import Graph, Parameter
from pipecut.compiler.job import JobSpec
from pipecut.compiler.partition.problem import Block, Crossing, Problem, Recompute, Shared, Slot, merge_crossings
from pipecut.compiler.partition.reduce import needed_edges
from pipecut.runtime.memory import kept_bytes
from pipecut.runtime.plan import Held


@dataclass(frozen=True)
class Optimizing:
    """The optimizer, and how many replicas its states and the masters are divided over."""

    optimizer: str
    shards: int = 1

    @staticmethod
    def of(spec: JobSpec, replicas: int) -> "Optimizing":
        """As the job says, with so many replicas."""
        return Optimizing(spec.optimizer, replicas if spec.optimizer_state == "fully_shard" else 1)


# A search asks for the same ones with every candidate.
@cache
def held_of(parameter: Parameter) -> Held:
    """A parameter as a plan has it."""
    return Held(names=list(parameter.names), shape=list(parameter.shape), dtype=parameter.dtype, trainable=parameter.trainable)


def fixed_bytes(parameter: Parameter, how: Optimizing) -> int:
    """Of a parameter with its gradient, its master and the optimizer's states; a frozen one has none of them."""
    held = held_of(parameter)
    return kept_bytes(held, how.optimizer, how.shards) + held.gradient_bytes


def coarsen(
    costed: CostedGraph, slots: tuple[Slot, ...], how: Optimizing, told: Constraints, recompute: Recompute = "never"
) -> Problem:
    """The blocks stand in the topological order closest to program order."""
    graph = costed.graph
    dependencies = graph.dependencies()
    groups = together(graph)
    _join_views(costed, dependencies, groups, told)
    for indices in told.together:
        groups.union(*indices)
    return replace(_problem(costed, ordered_groups(dependencies, groups), slots, how, told), recompute=recompute)


def together(graph: Graph) -> "nx.utils.UnionFind[int]":
    """Operators that no cut may separate."""
    groups: nx.utils.UnionFind[int] = nx.utils.UnionFind(range(len(graph.operators)))
    made = graph.producers()
    for index, operator in enumerate(graph.operators):
        if operator.target == "getitem" or operator.target.startswith("aten.as_strided"):
            groups.union(*(made[name] for name in operator.inputs if name in made), index)
    for touching in _written_storages(graph).values():
        if touching:
            groups.union(*touching)
    return groups


def _written_storages(graph: Graph) -> dict[str, list[int]]:
    """Storage -> operators that touch it no later than its last write; all of them when it is held or given."""
    root = graph.roots()
    touch: dict[str, list[int]] = defaultdict(list)
    last_write: dict[str, int] = {}
    for index, operator in enumerate(graph.operators):
        if not operator.aliases:
            touch[operator.name].append(index)
        for name in {root.get(n, n) for n in operator.inputs}:
            touch[name].append(index)
        for name in operator.writes:
            last_write[root.get(name, name)] = index
    produced = graph.producers()
    return {name: [i for i in touch[name] if i <= last or name not in produced] for name, last in last_write.items()}


def _join_views(
    costed: CostedGraph, dependencies: "nx.DiGraph[int]", groups: "nx.utils.UnionFind[int]", told: Constraints
) -> None:
    graph = costed.graph
    made = graph.producers()
    # A view of what lies before a cut that the user asked for must not be joined with what lies after it.
    sides: dict[int, set[int]] = defaultdict(set)
    for module, indices in enumerate(told.before):
        for index in indices:
            sides[index].add(module)
    for index, operator in enumerate(graph.operators):
        value = graph.values.get(operator.name)
        free = not any(costed.costs[index].forward.values()) and costed.costs[index].saved_own_bytes == 0
        consumers = list(dependencies.successors(index))
        if value is None or (operator.name in costed.saved):
            continue
        sources = [name for name in operator.inputs if name in made]
        if free and len(sources) == 1:
            source = graph.values.get(sources[0])
            only = dependencies.out_degree(made[sources[0]]) == 1 and sides[made[sources[0]]] == sides[index]
            if only and source is not None and value.bytes <= source.bytes and sources == list(operator.inputs):
                groups.union(made[sources[0]], index)
                continue
        if not operator.inputs or free:
            beside = len(consumers) == 1 and sides[consumers[0]] == sides[index]
            if beside and all(graph.values[n].bytes <= value.bytes for n in sources if n in graph.values):
                groups.union(index, consumers[0])


def ordered_groups(dependencies: "nx.DiGraph[int]", groups: "nx.utils.UnionFind[int]") -> list[list[int]]:
    """Groups without cycles between them, in the topological order closest to program order."""
    between: nx.DiGraph[int] = nx.DiGraph()
    between.add_nodes_from(groups[index] for index in dependencies)
    between.add_edges_from((groups[u], groups[v]) for u, v in dependencies.edges if groups[u] != groups[v])
    condensed = nx.condensation(between)
    members: dict[int, list[int]] = defaultdict(list)
    for index in sorted(dependencies):
        members[condensed.graph["mapping"][groups[index]]].append(index)
    order = nx.lexicographical_topological_sort(condensed, key=lambda group: max(members[group]))
    return [members[group] for group in order]


def _problem(
    costed: CostedGraph, members: list[list[int]], slots: tuple[Slot, ...], how: Optimizing, told: Constraints
) -> Problem:
    graph, made = costed.graph, costed.graph.producers()
    group_of = {index: at for at, group in enumerate(members) for index in group}
    kinds = sorted({slot.kind for slot in slots})
    uses: dict[str, set[int]] = defaultdict(set)
    for index, operator in enumerate(graph.operators):
        for name in operator.inputs:
            uses[name].add(group_of[index])
    blocks = tuple(
        Block(
            tuple(group),
            {kind: sum(costed.seconds(i, kind) for i in group) for kind in kinds},
            sum(costed.saved.get(graph.operators[i].name, 0) + costed.costs[i].saved_own_bytes for i in group),
            max((costed.costs[i].transient_bytes for i in group), default=0),
            {kind: sum(costed.costs[i].forward[kind] for i in group) for kind in kinds},
        )
        for group in members
    )
    crossings = []
    edges: set[tuple[int, int]] = set()
    for name, index in made.items():
        source = group_of[index]
        consumers = tuple(sorted(uses[name] - {source}))
        edges.update((source, consumer) for consumer in consumers)
        if consumers and name in graph.values:
            value = graph.values[name]
            back = value.bytes if value.needs_grad else 0
            crossings.append(Crossing(name, source, consumers, value.bytes, back, 1 + value.needs_grad))
    shared = tuple(Shared(p.names[0], fixed_bytes(p, how), tuple(sorted(uses[p.value])) or (0,)) for p in graph.parameters)
    splits = set()
    for module in told.before:
        inside = set(module)
        needs = {(made[name], index) for index in module for name in graph.operators[index].inputs if name in made}
        splits |= {(group_of[source], group_of[index]) for source, index in needs if source not in inside}
    return Problem(
        blocks,
        needed_edges(edges, len(blocks)),
        merge_crossings(tuple(crossings)),
        shared,
        slots,
        pins=tuple(sorted({(group_of[index], stage) for index, stage in told.pins})),
        splits=tuple(sorted(splits)),
    )
