"""Operators that no cut may separate."""

import networkx as nx

from pipecut.compiler.partition.coarsen.groups import (
    Groups,
    inseparable,
    ordered_groups,
    written_storages,
)
from tests.compiler.partition.coarsen.graphs import Sketch


def together(groups: "Groups[int]", count: int) -> list[list[int]]:
    """The groups in order."""
    return sorted(sorted(group) for group in groups.to_sets())


def test_parts_stay_with_the_result_they_are_of() -> None:
    sketch = Sketch()
    sketch.add("split", "x")
    sketch.add("part", "split", target="getitem")
    sketch.add("used", "part")
    graph = sketch.costed().graph
    assert together(inseparable(graph, {}), 3) == [[0, 1], [2]]


def test_what_touches_a_written_storage_stays_together_up_to_the_last_write() -> None:
    sketch = Sketch()
    sketch.add("made", "x")
    sketch.add("view", "made", aliases=("made",))
    sketch.add("write", "view", "x", writes=("view",), aliases=("view",))
    sketch.add("read", "made")
    graph = sketch.costed().graph
    assert written_storages(graph) == {"made": [0, 1, 2]}
    assert together(inseparable(graph, written_storages(graph)), 4) == [[0, 1, 2], [3]]


def test_a_storage_that_outlives_the_step_keeps_all_that_touch_it() -> None:
    sketch = Sketch(inputs=["x"])
    sketch.add("write", "total", "x", writes=("total",), aliases=("total",))
    sketch.add("read", "total")
    assert written_storages(sketch.costed().graph) == {"total": [0, 1]}


def test_groups_on_a_cycle_are_one_and_keep_program_order() -> None:
    dependencies: nx.DiGraph[int] = nx.DiGraph([(0, 1), (1, 2), (2, 3)])
    groups: Groups[int] = Groups(range(4))
    groups.union(0, 2)
    assert ordered_groups(dependencies, groups) == [[0, 1, 2], [3]]


def test_independent_groups_stand_in_program_order() -> None:
    dependencies: nx.DiGraph[int] = nx.DiGraph([(0, 2), (1, 3)])
    assert ordered_groups(dependencies, Groups(range(4))) == [[0], [1], [2], [3]]
