"""What an expression of the source is worth in a frame, where that is certain."""

import ast
import sys
from typing import Any

import pytest

from pipecut.compiler.trace.modes.source_values import Known, plain_value_of, value_of

RATE = 0.1


class Owner:
    rate, training, nested = 0.0, True, [1]


def value(expression: str) -> Known | None:
    owner, number = Owner(), 3
    frame = sys._getframe()
    del owner, number
    return value_of(ast.parse(expression, mode="eval").body, frame)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("1", 1),
        ("RATE", 0.1),
        ("len", len),
        ("RATE > 0", True),
        ("0 < RATE", True),
        ("RATE <= 0", False),
        ("RATE >= 1", False),
        ("RATE == 0.1", True),
        ("RATE != 0.1", False),
        ("None is None", True),
        ("None is not None", False),
        ("Owner.rate", 0.0),
        ("Owner.rate > 0", False),
    ],
)
def test_names_attributes_and_comparisons_are_known(expression: str, result: Any) -> None:
    assert value(expression) == Known(result)


@pytest.mark.parametrize(
    "expression",
    ["missing", "Owner.training", "Owner.missing", "RATE + 1", "1 < 2 < 3", "'a' < 'b'", "f()"],
)
def test_anything_else_is_not_certain(expression: str) -> None:
    assert value(expression) is None


def test_only_plain_values_are_compared_as_equals() -> None:
    frame = sys._getframe()
    assert plain_value_of(ast.parse("Owner.nested", mode="eval").body, frame) is None
    assert plain_value_of(ast.parse("Owner.rate", mode="eval").body, frame) == Known(0.0)
