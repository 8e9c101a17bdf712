"""Two graphs for one sample are compared by what they compute."""

from dataclasses import replace

import pytest

from pipecut.compiler.graph import Graph, Operator, Ref, Sym
from pipecut.compiler.trace.batch_of_one import alike_for_one
from tests.compiler.graphs import graph, operator, value

X, Y = value("x", 1, 4), value("y", 1, 4)


def model(*operators: Operator) -> Graph:
    return graph(operators, (X, *(replace(Y, name=o.name) for o in operators)), batch=("x",))


TANH = operator("t", "aten.tanh.default", Ref("x"))
BY_BATCH = model(operator("s", "aten.mul.Tensor", Ref("x"), Sym("2*batch")))


@pytest.mark.parametrize(
    ("of_one", "alike"),
    [
        (model(operator("other", "aten.mul.Tensor", Ref("x"), 2)), True),
        (model(operator("other", "aten.mul.Tensor", Ref("x"), 3)), False),
        (model(operator("other", "aten.add.Tensor", Ref("x"), 2)), False),
        (model(operator("o", "aten.mul.Tensor", Ref("x"), 2, contexts=("c",))), False),
        (model(operator("o", "aten.mul.Tensor", Ref("x"), 2, kwargs={"alpha": 1})), False),
    ],
)
def test_names_do_not_matter_and_sizes_are_those_of_one_sample(of_one: Graph, alike: bool) -> None:
    assert alike_for_one(BY_BATCH, of_one) == alike


def test_an_operator_that_changes_nothing_for_one_sample_does_not_matter() -> None:
    expand = operator("e", "aten.expand.default", Ref("x"), (1, 4))
    after = operator("t", "aten.tanh.default", Ref("e"))
    assert alike_for_one(model(expand, after), model(TANH))
    transposed = operator("e", "aten.neg.default", Ref("x"))
    assert not alike_for_one(model(transposed, after), model(TANH))


def test_another_order_of_inputs_is_another_computation() -> None:
    first = model(TANH, operator("d", "aten.sub.Tensor", Ref("x"), Ref("t")))
    second = model(TANH, operator("d", "aten.sub.Tensor", Ref("t"), Ref("x")))
    assert not alike_for_one(first, second)
