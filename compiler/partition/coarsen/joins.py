"""Operators that join a neighbour because a cut between the two can never pay."""

from collections import defaultdict
from dataclasses import dataclass

import networkx as nx

from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.partition.coarsen.duplicate import sent_seconds
from pipecut.compiler.partition.coarsen.groups import Groups
from pipecut.compiler.partition.constraints import Constraints
from pipecut.compiler.partition.problem import StageDevice


@dataclass(frozen=True)
class Neighbours:
    """The operators that are to be grouped, and on which side of the cuts asked for each stands.

    `dependencies` has an edge for each use of another operator's result. `sides[index]` has the
    modules with a cut before them that operator `index` belongs to: operators of different sides
    must not join.
    """

    costed: CostedGraph
    dependencies: "nx.DiGraph[int]"
    sides: dict[int, set[int]]

    @staticmethod
    def of(
        costed: CostedGraph, dependencies: "nx.DiGraph[int]", constraints: Constraints
    ) -> "Neighbours":
        """The neighbours of a graph under what the user asked for."""
        sides: dict[int, set[int]] = defaultdict(set)
        for module, indices in enumerate(constraints.before):
            for index in indices:
                sides[index].add(module)
        return Neighbours(costed, dependencies, sides)

    def only_consumer(self, index: int) -> int | None:
        """The only operator that uses a result, where both stand on one side."""
        consumers = list(self.dependencies.successors(index))
        alone = len(consumers) == 1 and self.sides[consumers[0]] == self.sides[index]
        return consumers[0] if alone else None


def join_views(neighbours: Neighbours, groups: "Groups[int]") -> None:
    """Join results that cost nothing and are not saved with what they view or what uses them."""
    costed, graph = neighbours.costed, neighbours.costed.graph
    producers = {
        name: index for name, index in graph.producers().items() if index in neighbours.dependencies
    }
    for index, operator in enumerate(graph.operators):
        if index not in neighbours.dependencies:
            continue
        if operator.name not in graph.values or operator.name in costed.saved:
            continue
        source = _viewed(neighbours, index, producers)
        if source is not None:
            groups.union(source, index)
        elif not operator.inputs or _is_free(costed, index):
            consumer = neighbours.only_consumer(index)
            if consumer is not None and _is_no_smaller(neighbours, index, producers):
                groups.union(index, consumer)


def _is_free(costed: CostedGraph, index: int) -> bool:
    """Whether an operator takes no time and keeps nothing for backward."""
    cost = costed.costs[index]
    return not any(cost.forward.values()) and cost.saved_own_bytes == 0


def _viewed(neighbours: Neighbours, index: int, producers: dict[str, int]) -> int | None:
    """The operator whose result a free operator views, no larger than that and its only user."""
    graph = neighbours.costed.graph
    operator = graph.operators[index]
    if not _is_free(neighbours.costed, index) or len(operator.inputs) != 1:
        return None
    name = operator.inputs[0]
    if name not in producers or name not in graph.values:
        return None
    no_larger = graph.values[operator.name].bytes <= graph.values[name].bytes
    only_user = neighbours.only_consumer(producers[name]) is not None
    return producers[name] if only_user and no_larger else None


def _is_no_smaller(neighbours: Neighbours, index: int, producers: dict[str, int]) -> bool:
    """Whether a result is at least as large as each result that it is made from."""
    values, operator = neighbours.costed.graph.values, neighbours.costed.graph.operators[index]
    sources = [name for name in operator.inputs if name in producers and name in values]
    return all(values[name].bytes <= values[operator.name].bytes for name in sources)


def join_sources(
    neighbours: Neighbours, groups: "Groups[int]", stage_devices: tuple[StageDevice, ...]
) -> None:
    """Join what needs nothing that stands on a stage with its only user.

    Only where it takes no longer than to send its result: on an earlier stage its user's stage
    would gain what it takes and lose as much to the link.
    """
    costed, graph = neighbours.costed, neighbours.costed.graph
    held = {parameter.value for parameter in graph.parameters}
    held |= graph.batch_names().keys()
    kinds = {device.kind for device in stage_devices}
    for index in neighbours.dependencies:
        operator, consumer = graph.operators[index], neighbours.only_consumer(index)
        is_source = neighbours.dependencies.in_degree(index) == 0 and not held & set(
            operator.inputs
        )
        if consumer is None or not is_source or operator.name not in graph.values:
            continue
        sent = sent_seconds(graph.values[operator.name], stage_devices)
        if max(costed.seconds(index, kind) for kind in kinds) <= sent:
            groups.union(index, consumer)
