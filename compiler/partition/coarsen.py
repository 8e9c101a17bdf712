"""Costed graph -> blocks that a cut may separate.

Kept together: a result and its parts, whatever shares storage that is written (up to the last write), and cycles this
makes. Then views join what they view where that cannot cost anything.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache

import networkx as nx

from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.graph import Graph, Parameter
from pipecut.compiler.inputs.job import JobSpec
from pipecut.compiler.operators.lookup import rule_of
from pipecut.compiler.partition.constraints import Constraints
from pipecut.compiler.partition.made import made_where_used, sent_seconds, users_of
from pipecut.compiler.partition.problem import (
    Block,
    Problem,
    Recompute,
    SharedParameter,
    StageDevice,
    TensorUse,
    merge_tensors,
)
from pipecut.compiler.partition.reduce import needed_edges
from pipecut.plan.memory import kept_bytes
from pipecut.plan.schema import StageTensor


@dataclass(frozen=True)
class OptimizerSpec:
    """The optimizer, and how many replicas its states and the masters are divided over."""

    optimizer: str
    shards: int = 1

    @staticmethod
    def of(spec: JobSpec, replicas: int) -> "OptimizerSpec":
        """As the job says, with so many replicas."""
        return OptimizerSpec(spec.optimizer, replicas if spec.shard_optimizer else 1)


# A search asks for the same ones with every candidate.
@cache
def held_of(parameter: Parameter) -> StageTensor:
    """A parameter as a plan has it."""
    return StageTensor(
        names=list(parameter.names),
        shape=list(parameter.shape),
        dtype=parameter.dtype,
        trainable=parameter.trainable,
    )


def fixed_bytes(parameter: Parameter, how: OptimizerSpec) -> int:
    """Of a parameter with its gradient, its master and the optimizer's states; a frozen one has none of them."""
    held = held_of(parameter)
    return kept_bytes(held, how.optimizer, how.shards) + held.gradient_bytes


def coarsen(
    costed: CostedGraph,
    stage_devices: tuple[StageDevice, ...],
    how: OptimizerSpec,
    constraints: Constraints,
    recompute: Recompute = "never",
) -> Problem:
    """The blocks stand in the topological order closest to program order."""
    graph = costed.graph
    dependencies, written = graph.dependencies(), written_storages(graph)
    fixed = {p.value: fixed_bytes(p, how) for p in graph.parameters}
    made = made_where_used(costed, stage_devices, constraints, fixed, written)
    dependencies.remove_nodes_from(made)
    groups = together(graph, written)
    _join_views(costed, dependencies, groups, constraints)
    _join_sources(costed, dependencies, groups, stage_devices, constraints)
    for indices in constraints.together:
        groups.union(*(i for i in indices if i not in made))
    members = ordered_groups(dependencies, groups)
    return replace(
        _problem(costed, members, made, stage_devices, fixed, constraints), recompute=recompute
    )


def together(graph: Graph, written: dict[str, list[int]]) -> "nx.utils.UnionFind[int]":
    """Operators that no cut may separate; `written` has those of each storage that is written."""
    groups: nx.utils.UnionFind[int] = nx.utils.UnionFind(range(len(graph.operators)))
    made = graph.producers()
    for index, operator in enumerate(graph.operators):
        if rule_of(operator.target).part_of_input:
            groups.union(*(made[name] for name in operator.inputs if name in made), index)
    for touching in written.values():
        if touching:
            groups.union(*touching)
    return groups


def written_storages(graph: Graph) -> dict[str, list[int]]:
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
    return {
        name: [i for i in touch[name] if i <= last or name not in produced]
        for name, last in last_write.items()
    }


def _join_views(
    costed: CostedGraph,
    dependencies: "nx.DiGraph[int]",
    groups: "nx.utils.UnionFind[int]",
    constraints: Constraints,
) -> None:
    graph = costed.graph
    made = {name: index for name, index in graph.producers().items() if index in dependencies}
    sides = _sides(constraints)
    for index, operator in enumerate(graph.operators):
        if index not in dependencies:
            continue
        value = graph.values.get(operator.name)
        free = (
            not any(costed.costs[index].forward.values())
            and costed.costs[index].saved_own_bytes == 0
        )
        consumers = list(dependencies.successors(index))
        if value is None or (operator.name in costed.saved):
            continue
        sources = [name for name in operator.inputs if name in made]
        if free and len(sources) == 1:
            source = graph.values.get(sources[0])
            only = (
                dependencies.out_degree(made[sources[0]]) == 1
                and sides[made[sources[0]]] == sides[index]
            )
            if (
                only
                and source is not None
                and value.bytes <= source.bytes
                and sources == list(operator.inputs)
            ):
                groups.union(made[sources[0]], index)
                continue
        if not operator.inputs or free:
            beside = len(consumers) == 1 and sides[consumers[0]] == sides[index]
            if beside and all(
                graph.values[n].bytes <= value.bytes for n in sources if n in graph.values
            ):
                groups.union(index, consumers[0])


def _sides(constraints: Constraints) -> dict[int, set[int]]:
    """What lies before a cut that the user asked for must not be joined with what lies after it."""
    sides: dict[int, set[int]] = defaultdict(set)
    for module, indices in enumerate(constraints.before):
        for index in indices:
            sides[index].add(module)
    return sides


def _join_sources(
    costed: CostedGraph,
    dependencies: "nx.DiGraph[int]",
    groups: "nx.utils.UnionFind[int]",
    stage_devices: tuple[StageDevice, ...],
    constraints: Constraints,
) -> None:
    """What needs nothing that stands on a stage joins its only user, where it takes no longer than to send its result.

    On an earlier stage its user's would gain what it takes and lose as much to the link.
    """
    graph, sides = costed.graph, _sides(constraints)
    held = {p.value for p in graph.parameters} | {name for name, _ in graph.batch_inputs}
    kinds = {slot.kind for slot in stage_devices}
    for index in dependencies:
        operator, consumers = graph.operators[index], list(dependencies.successors(index))
        alone = (
            dependencies.in_degree(index) == 0
            and len(consumers) == 1
            and not held & set(operator.inputs)
        )
        if alone and operator.name in graph.values and sides[consumers[0]] == sides[index]:
            sent = sent_seconds(graph.values[operator.name], stage_devices)
            if max(costed.seconds(index, kind) for kind in kinds) <= sent:
                groups.union(index, consumers[0])


def ordered_groups(
    dependencies: "nx.DiGraph[int]", groups: "nx.utils.UnionFind[int]"
) -> list[list[int]]:
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


def _problem(
    costed: CostedGraph,
    members: list[list[int]],
    made: frozenset[int],
    stage_devices: tuple[StageDevice, ...],
    fixed: dict[str, int],
    constraints: Constraints,
) -> Problem:
    """`made` are the operators that stages run for themselves, `fixed` the bytes of each parameter."""
    graph = costed.graph
    group_of = {index: at for at, group in enumerate(members) for index in group}
    kinds = sorted({slot.kind for slot in stage_devices})
    users = users_of(graph, made, group_of)
    uses: dict[str, set[int]] = defaultdict(set)
    for index, operator in enumerate(graph.operators):
        for name in operator.inputs:
            uses[name] |= users[index] if index in made else {group_of[index]}
    blocks = _blocks(costed, members, users, kinds)
    tensors = []
    edges: set[tuple[int, int]] = set()
    producers = {name: index for name, index in graph.producers().items() if index not in made}
    for name, index in producers.items():
        source = group_of[index]
        consumers = tuple(sorted(uses[name] - {source}))
        edges.update((source, consumer) for consumer in consumers)
        if consumers and name in graph.values:
            value = graph.values[name]
            back = value.bytes if value.needs_grad else 0
            tensors.append(
                TensorUse(name, source, consumers, value.bytes, back, 1 + value.needs_grad)
            )
    shared = [
        SharedParameter(p.names[0], fixed[p.value], tuple(sorted(uses[p.value])) or (0,))
        for p in graph.parameters
    ]
    splits = set()
    for module in constraints.before:
        inside = set(module)
        needs = {
            (producers[n], index)
            for index in inside - made
            for n in graph.operators[index].inputs
            if n in producers
        }
        splits |= {
            (group_of[source], group_of[index]) for source, index in needs if source not in inside
        }
    return Problem(
        blocks,
        needed_edges(edges, len(blocks)),
        merge_tensors(tuple(tensors)),
        (*shared, *_made(costed, users, kinds)),
        stage_devices,
        pins=tuple(sorted({(group_of[index], stage) for index, stage in constraints.pins})),
        splits=tuple(sorted(splits)),
        made=tuple(sorted(made)),
    )


def _blocks(
    costed: CostedGraph,
    members: list[list[int]],
    users: dict[int, frozenset[int]],
    kinds: list[str],
) -> tuple[Block, ...]:
    # A stage has what it makes for a moment where it has what uses it.
    transient: dict[int, int] = defaultdict(int)
    for index, using in users.items():
        for at in using:
            transient[at] = max(transient[at], costed.costs[index].transient_bytes)
    return tuple(
        Block(
            tuple(group),
            {kind: sum(costed.seconds(i, kind) for i in group) for kind in kinds},
            sum(_saved_bytes(costed, i) for i in group),
            max([transient[at], *(costed.costs[i].transient_bytes for i in group)]),
            {kind: sum(costed.costs[i].forward[kind] for i in group) for kind in kinds},
        )
        for at, group in enumerate(members)
    )


def _saved_bytes(costed: CostedGraph, index: int) -> int:
    return (
        costed.saved.get(costed.graph.operators[index].name, 0)
        + costed.costs[index].saved_own_bytes
    )


def _made(
    costed: CostedGraph, users: dict[int, frozenset[int]], kinds: list[str]
) -> list[SharedParameter]:
    """What stages make for themselves, that with the same users as one; what costs nothing is left out."""
    together: dict[frozenset[int], list[int]] = defaultdict(list)
    for index, using in sorted(users.items()):
        together[using].append(index)
    found = [
        SharedParameter(
            costed.graph.operators[indices[-1]].name,
            0,
            tuple(sorted(using)),
            {kind: sum(costed.seconds(i, kind) for i in indices) for kind in kinds},
            {kind: sum(costed.costs[i].forward[kind] for i in indices) for kind in kinds},
            sum(_saved_bytes(costed, i) for i in indices),
        )
        for using, indices in together.items()
    ]
    return [shared for shared in found if shared.saved_bytes or any(shared.seconds.values())]
