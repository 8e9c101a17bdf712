"""A graph that can become no plan is refused by name; idle parameters are noted."""

import re
from dataclasses import replace

import pytest
import torch

from pipecut.compiler.graph import Graph, Ref
from pipecut.compiler.trace.requirements import checked
from pipecut.errors import TraceError
from tests.compiler.graphs import buffer, graph, operator, parameter, value

X, W = value("x", "batch", 4), value("w", 4, 4, needs_grad=True)
H, LOSS = value("h", "batch", 4, needs_grad=True), value("loss", needs_grad=True)
LINEAR = operator("h", "aten.linear.default", Ref("x"), Ref("w"))
SUM = operator("loss", "aten.sum.default", Ref("h"))
GOOD = graph([LINEAR, SUM], (X, W, H, LOSS), ("w",), ("x",))


def with_values(*values: object) -> Graph:
    return replace(GOOD, values=GOOD.values | {v.name: v for v in values})  # type: ignore[attr-defined]


def test_a_graph_that_trains_is_returned_as_it_is() -> None:
    assert checked(GOOD) is GOOD


def test_parameters_without_a_gradient_are_noted_the_first_by_name() -> None:
    values = [value(f"p{i}", 2) for i in range(5)]
    idle = [parameter(of_idle) for of_idle in values]
    noted = checked(replace(with_values(*values), parameters=(*GOOD.parameters, *idle)))
    (note,) = noted.notes
    assert note.endswith("p0, p1, p2 and 2 more")
    frozen = parameter(value("f", 2), trainable=False)
    assert not checked(replace(GOOD, parameters=(*GOOD.parameters, frozen))).notes


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (
            replace(GOOD, parameters=(replace(GOOD.parameters[0], dtype="float8_e8m0fnu"),)),
            "parameter 'w' is float8_e8m0fnu, which a plan cannot carry; cast it to one of",
        ),
        (
            replace(GOOD, buffers=(buffer(value("b"), torch.tensor(1j, dtype=torch.complex128)),)),
            "buffer 'b' is complex128, which safetensors cannot hold; make it complex64",
        ),
        (
            with_values(replace(H, dtype="float8_e8m0fnu")),
            "the result of aten.linear.default in layer (model.py:7) is float8_e8m0fnu",
        ),
        (
            replace(with_values(replace(LOSS, needs_grad=False)), parameters=()),
            "no parameter of the model needs a gradient",
        ),
        (
            with_values(replace(LOSS, needs_grad=False)),
            "a gradient is lost is aten.sum.default of layer (model.py:7)",
        ),
    ],
)
def test_what_no_plan_can_carry_is_refused_by_name(refused: Graph, message: str) -> None:
    with pytest.raises(TraceError, match=re.escape(message)):
        checked(refused)
