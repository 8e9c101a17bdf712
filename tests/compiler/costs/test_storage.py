"""Whose storage a result has."""

import pytest

from pipecut.compiler.costs.storage import storages
from pipecut.compiler.graph import Ref, Value
from tests.compiler.graphs import graph, operator, value

DENSE, TRANSPOSED = value("x", 2, 3), value("x", 2, 3, strides=(1, 2))


@pytest.mark.parametrize(
    ("target", "args", "source", "result", "is_view"),
    [
        ("view.default", (), DENSE, value("y", 6), True),
        ("to.dtype", (), DENSE, value("y", 2, 3), True),
        ("to.dtype", (), DENSE, value("y", 2, 3, dtype="bfloat16"), False),
        ("type_as.default", (), DENSE, value("y", 2, 3, dtype="bfloat16"), False),
        ("contiguous.default", (), DENSE, value("y", 2, 3), True),
        ("contiguous.default", (), TRANSPOSED, value("y", 2, 3), False),
        ("reshape.default", (), DENSE, value("y", 6), True),
        ("reshape.default", (), TRANSPOSED, value("y", 6), False),
        ("flatten.using_ints", (), TRANSPOSED, value("y", 6), False),
        # A dimension of one element may have any stride.
        ("flatten.using_ints", (), value("x", 1, 3, strides=(7, 1)), value("y", 3), True),
        ("dropout.default", (0.5, True), DENSE, value("y", 2, 3), False),
        ("dropout.default", (0.0, True), DENSE, value("y", 2, 3), True),
        ("dropout.default", (0.5, False), DENSE, value("y", 2, 3), True),
    ],
)
def test_what_may_alias_is_a_view_where_no_bytes_move(
    target: str, args: tuple[object, ...], source: Value, result: Value, is_view: bool
) -> None:
    call = operator("y", f"aten.{target}", Ref("x"), *args, aliases=("x",))
    assert storages(graph([call], (source, result)))["y"] == ("x" if is_view else "y")


def test_a_view_of_a_view_has_the_first_storage() -> None:
    calls = [
        operator("y", "aten.view.default", Ref("x"), aliases=("x",)),
        operator("z", "aten.t.default", Ref("y"), aliases=("y",)),
        operator("u", "aten.neg.default", Ref("z")),
    ]
    values = (DENSE, value("y", 6), value("z", 6), value("u", 6))
    assert storages(graph(calls, values)) == {"x": "x", "y": "x", "z": "x", "u": "u"}
