"""A line that only raises an error for one answer is told from one that does something."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pipecut.compiler.trace.watch.raising import ConditionAsked, condition_at
from tests.programs.choosing import asserted, asserted_not


class Asked:
    """Notes what the code that asks for its truth does by it."""

    def __init__(self, value: bool) -> None:
        self.value = value
        self.conditions: list[ConditionAsked] = []

    def __bool__(self) -> bool:
        self.conditions.append(condition_at(sys._getframe(1)))
        return self.value

    def item(self) -> bool:
        self.conditions.append(condition_at(sys._getframe(1)))
        return self.value

    def __ge__(self, other: Any) -> "Asked":
        return self


def if_raise(x: Any) -> Any:
    if x >= 10:
        raise ValueError(f"{x if x is not None else 3} is too large")
    return 3


def if_not_raise(x: Any) -> None:
    if not x:
        raise ValueError


def one_of_several(x: Any) -> None:
    if x is not None and x >= 10:
        raise ValueError


def neither(x: Any) -> None:
    if not (x is not None and not x):
        raise ValueError


def called(x: Any) -> None:
    if bool(x):
        raise ValueError


def in_a_with(x: Any) -> None:
    with contextlib.nullcontext():
        if x:
            raise ValueError


def in_a_loop(x: Any) -> None:
    for _ in range(1):
        if x:
            raise ValueError


def caught(x: Any) -> Any:
    try:
        if x:
            raise ValueError
    except ValueError:
        return 4


def chosen(x: Any) -> Any:
    return 1 if x else 2


def either(x: Any) -> Any:
    return x and 3


def kept(x: Any) -> Any:
    ok = x.item()
    return ok


def changes_then_raises(x: Any) -> None:
    if x:
        x.seen = True
        raise ValueError


def both_raise(x: Any) -> None:
    if x:
        raise ValueError
    raise TypeError


CASES: list[tuple[Callable[[Any], Any], bool, bool | None, str]] = [
    (if_raise, False, False, "x >= 10"),
    (if_not_raise, True, True, "x"),
    (asserted, True, True, "x.item()"),
    (asserted_not, False, False, "x.item()"),
    (one_of_several, False, False, "x >= 10"),
    (neither, False, False, "x"),
    (called, False, False, "bool(x)"),
    (in_a_with, False, False, "x"),
    (in_a_loop, False, False, "x"),
    (caught, False, None, "x"),
    (chosen, True, None, "x"),
    (either, True, None, "x"),
    (kept, True, None, "x.item()"),
    (changes_then_raises, False, None, "x"),
]


@pytest.mark.parametrize(("function", "value", "goes_on", "words"), CASES)
def test_the_answer_that_goes_on(
    function: Callable[[Any], Any], value: bool, goes_on: bool | None, words: str
) -> None:
    asked = Asked(value)
    function(asked)
    assert asked.conditions == [ConditionAsked(words, goes_on)]


def test_a_line_that_raises_in_any_case_goes_on_for_no_answer() -> None:
    asked = Asked(False)
    with pytest.raises(TypeError):
        both_raise(asked)
    assert asked.conditions[0].goes_on is None
