"""Costed graph -> blocks that a cut may separate.

Kept together: a result and its parts, whatever shares storage that is written (up to the last
write), and cycles that this makes. Then views join what they view where that cannot cost anything.
"""

from dataclasses import replace

from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.partition.coarsen.assemble import Grouping, assemble
from pipecut.compiler.partition.coarsen.duplicate import duplicated_operators
from pipecut.compiler.partition.coarsen.groups import (
    inseparable,
    kept_together,
    ordered_groups,
)
from pipecut.compiler.partition.coarsen.joins import Neighbours, join_sources, join_views
from pipecut.compiler.partition.coarsen.parameter_bytes import OptimizerSpec, fixed_bytes
from pipecut.compiler.partition.constraints import Constraints
from pipecut.compiler.partition.problem import Problem, Recompute, StageDevice


def coarsen(
    costed: CostedGraph,
    stage_devices: tuple[StageDevice, ...],
    optimizer: OptimizerSpec,
    constraints: Constraints,
    recompute: Recompute = "never",
) -> Problem:
    """Blocks in the topological order closest to program order, to be put on these devices."""
    graph = costed.graph
    dependencies, written = graph.dependencies(), kept_together(graph)
    fixed = {parameter.value: fixed_bytes(parameter, optimizer) for parameter in graph.parameters}
    duplicated = duplicated_operators(costed, stage_devices, constraints, fixed, written)
    dependencies.remove_nodes_from(duplicated)

    groups = inseparable(graph, written)
    neighbours = Neighbours.of(costed, dependencies, constraints)
    join_views(neighbours, groups)
    join_sources(neighbours, groups, stage_devices)
    for indices in constraints.together:
        groups.union(*(index for index in indices if index not in duplicated))

    grouping = Grouping(costed, ordered_groups(dependencies, groups), duplicated, written)
    return replace(assemble(grouping, stage_devices, fixed, constraints), recompute=recompute)
