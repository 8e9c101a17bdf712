"""Operators that join a neighbour because a cut between the two can never pay."""

from pipecut.compiler.partition.coarsen.groups import Groups
from pipecut.compiler.partition.coarsen.joins import Neighbours, join_sources, join_views
from pipecut.compiler.partition.constraints import Constraints
from tests.compiler.partition.coarsen.graphs import Sketch
from tests.compiler.partition.problems import device

DEVICES = (device(), device())


def joined(sketch: Sketch, constraints: Constraints | None = None) -> list[list[int]]:
    """The groups of several operators after both joins."""
    costed = sketch.costed()
    groups: Groups[int] = Groups(range(len(sketch.operators)))
    dependencies = costed.graph.dependencies()
    neighbours = Neighbours.of(costed, dependencies, constraints or Constraints())
    join_views(neighbours, groups)
    join_sources(neighbours, groups, DEVICES)
    return sorted(sorted(group) for group in groups.to_sets() if len(group) > 1)


def viewed(size: int = 8, seconds: float = 0.0, others: int = 0) -> Sketch:
    """A result, its view, and a user of that; `others` use the result too."""
    sketch = Sketch()
    sketch.add("result", "x", size=8)
    sketch.add("view", "result", size=size, seconds=seconds, target="aten.view.default")
    sketch.add("user", "view", "x")
    sketch.add("second", "view", "x")
    for index in range(others):
        sketch.add(f"other{index}", "result", "x")
    return sketch


def test_a_view_joins_the_result_it_alone_uses() -> None:
    assert joined(viewed()) == [[0, 1]]


def test_a_view_that_takes_time_or_grows_or_shares_its_source_stays() -> None:
    assert joined(viewed(seconds=1.0)) == []
    assert joined(viewed(size=16)) == []
    assert joined(viewed(others=1)) == []


def test_a_result_that_is_saved_stays() -> None:
    sketch = viewed()
    sketch.saved["view"] = 8
    assert joined(sketch) == []


def test_operators_on_both_sides_of_a_cut_stay_apart() -> None:
    assert joined(viewed(), Constraints(before=((1, 2, 3),))) == []


def test_a_constant_joins_its_only_user() -> None:
    sketch = Sketch()
    sketch.add("ones", seconds=0.5, target="aten.ones.default")
    sketch.add("user", "x", "ones")
    assert joined(sketch) == [[0, 1]]


def test_what_is_computed_from_nothing_joins_its_user_where_that_is_quicker_than_sending() -> None:
    def sketch(seconds: float) -> Sketch:
        sketch = Sketch()
        sketch.add("table", "buffer", size=8, seconds=seconds)
        sketch.add("user", "x", "table", seconds=9.0)
        return sketch

    # Eight bytes over a link of a byte per second.
    assert joined(sketch(8.0)) == [[0, 1]]
    assert joined(sketch(8.5)) == []
