"""Which operators each stage runs for itself, from graphs made by hand."""

from pipecut.compiler.partition.coarsen.duplicate import (
    duplicated_operators,
    sent_seconds,
    users_of,
)
from pipecut.compiler.partition.coarsen.groups import written_storages
from pipecut.compiler.partition.constraints import Constraints
from tests.compiler.partition.coarsen.graphs import Sketch
from tests.compiler.partition.problems import device

DEVICES = (device(in_flight=2), device())


def masked(seconds: float = 1.0, target: str = "aten.zeros.default", source: str = "") -> Sketch:
    """A mask of eight bytes that two layers use."""
    sketch = Sketch()
    sketch.add("mask", *([source] if source else []), seconds=seconds, target=target)
    sketch.add("first", "x", "mask", seconds=50.0)
    sketch.add("second", "first", "mask", seconds=50.0)
    sketch.add("loss", "second")
    return sketch


def duplicated(sketch: Sketch, fixed: dict[str, int] | None = None, pin: int = -1) -> list[int]:
    costed = sketch.costed()
    constraints = Constraints(pins=((pin, 0),) if pin >= 0 else ())
    written = written_storages(costed.graph)
    return sorted(duplicated_operators(costed, DEVICES, constraints, fixed or {}, written))


def test_what_is_quicker_to_compute_than_to_send_is_duplicated() -> None:
    assert duplicated(masked(seconds=8.0)) == [0]
    assert duplicated(masked(seconds=9.0)) == []


def test_what_depends_on_the_batch_or_draws_or_is_pinned_is_not() -> None:
    assert duplicated(masked(source="x")) == []
    assert duplicated(masked(target="aten.rand.default")) == []
    assert duplicated(masked(target="another_library.op")) == []
    assert duplicated(masked(), pin=0) == []


def test_what_needs_a_large_parameter_is_not() -> None:
    small, large = masked(source="weight"), masked(source="weight")
    # Two copies of eight bytes in flight.
    assert duplicated(small, {"weight": 16}) == [0]
    assert duplicated(large, {"weight": 17}) == []


def test_a_single_stage_duplicates_nothing() -> None:
    costed = masked().costed()
    assert duplicated_operators(costed, DEVICES[:1], Constraints(), {}, {}) == frozenset()


def test_what_writes_is_duplicated_with_all_that_touch_it_or_not_at_all() -> None:
    sketch = Sketch()
    sketch.add("zeros", seconds=0.1, target="aten.zeros.default")
    sketch.add("filled", "zeros", "x", writes=("zeros",), aliases=("zeros",))
    sketch.add("first", "x", "filled")
    sketch.add("loss", "first", "filled")
    assert duplicated(sketch) == []


def test_parts_follow_their_result() -> None:
    sketch = Sketch()
    sketch.add("pair", seconds=0.1, target="aten.zeros.default")
    sketch.add("part", "pair", target="getitem", seconds=0.0)
    sketch.add("loss", "x", "part")
    assert duplicated(sketch) == [0, 1]


def test_sending_counts_the_gradient_too() -> None:
    sketch = Sketch()
    sketch.add("plain", "x", size=8)
    sketch.add("trained", "x", size=8, grad=True)
    assert sent_seconds(sketch.values["plain"], DEVICES) == 8.0
    assert sent_seconds(sketch.values["trained"], DEVICES) == 16.0
    assert sent_seconds(sketch.values["plain"], DEVICES[:1]) == 0.0


def test_users_are_found_through_other_duplicated_operators() -> None:
    sketch = Sketch()
    sketch.add("table")
    sketch.add("slice", "table")
    sketch.add("first", "x", "slice")
    sketch.add("second", "first", "slice")
    users = users_of(sketch.costed().graph, frozenset({0, 1}), {2: 0, 3: 1}, {})
    assert users == {0: {0, 1}, 1: {0, 1}}


def test_who_reads_a_storage_needs_what_writes_to_it() -> None:
    sketch = Sketch()
    sketch.add("mask", target="aten.ones.default")
    sketch.add("row", "mask", target="aten.slice.Tensor", aliases=("mask",))
    sketch.add("value")
    # Nothing uses the result of the write.
    sketch.add("filled", "row", "value", writes=("row",), aliases=("row",))
    sketch.add("first", "x")
    sketch.add("second", "first", "mask")
    graph = sketch.costed().graph
    written = written_storages(graph)
    users = users_of(graph, frozenset({0, 1, 2, 3}), {4: 0, 5: 1}, written)
    assert users == dict.fromkeys(range(4), frozenset({1}))
