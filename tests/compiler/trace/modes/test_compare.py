"""Operators of both modes are paired and compared by their arguments."""

import math

import pytest

from pipecut.compiler.graph import Literal, Operator, Ref
from pipecut.compiler.trace.modes.compare import Twins, modes, twins, with_defaults
from tests.compiler.graphs import operator

X, Y = Ref("x"), Ref("y")


def dropout(*args: object) -> Operator:
    return operator("d", "aten.dropout.default", X, *args)


def calls(letters: str) -> tuple[Operator, ...]:
    return tuple(operator(str(i), f"aten.{name}.default", X) for i, name in enumerate(letters))


@pytest.mark.parametrize(
    ("training", "evaluation", "pairs"),
    [
        ("abc", "abc", [(0, 0), (1, 1), (2, 2)]),
        ("abcd", "abd", [(0, 0), (1, 1), (3, 2)]),
        ("ab", "axb", [(0, 0), (1, 2)]),
        ("a", "b", []),
    ],
)
def test_operators_stand_for_each_other_in_program_order(
    training: str, evaluation: str, pairs: list[tuple[int, int]]
) -> None:
    found = list(twins(calls(training), calls(evaluation)))
    assert found == [Twins(*pair) for pair in pairs]


@pytest.mark.parametrize(
    ("evaluation", "differing"),
    [
        (dropout(0.5, True), ()),
        (dropout(0.5, False), ((2, False),)),
        (dropout(0.1, False), ((1, 0.1), (2, False))),
        # True equals 1 but is written otherwise.
        (dropout(0.5, 1), ((2, 1),)),
        (dropout(0.5), None),
        (dropout(0.5, Y), None),
        (operator("d", "aten.tanh.default", X, 0.5, True), None),
        (operator("d", "aten.dropout.default", X, 0.5, True, contexts=("c",)), None),
    ],
)
def test_numbers_and_flags_may_differ(evaluation: Operator, differing: object) -> None:
    assert modes(dropout(0.5, True), evaluation) == differing


def test_keywords_may_differ_and_nan_is_nan() -> None:
    first = operator("f", "aten.full.default", (2,), math.nan, kwargs={"dtype": None})
    second = operator("f", "aten.full.default", (2,), math.nan, kwargs={"dtype": Literal("int")})
    assert modes(first, first) == ()
    assert modes(first, second) == (("dtype", Literal("int")),)


def test_defaults_that_tracing_left_out_are_put_back() -> None:
    softmax = operator("s", "aten.cross_entropy_loss.default", X, Y)
    assert with_defaults(softmax, 4).args == (X, Y, None, 1)
    # dim has no default.
    assert with_defaults(operator("s", "aten.softmax.int", X), 2).args == (X,)
    named = operator("s", "aten.cross_entropy_loss.default", X, Y, kwargs={"weight": None})
    assert with_defaults(named, 4) is named
