"""Which attributes of two layers count as equal."""

import functools
from typing import Any

import pytest
import torch
from torch import nn

from pipecut.compiler.trace.stamp.same_value import same_value


class Settings:
    """Holds what it is given."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Hidden(list):  # type: ignore[type-arg]
    """Holds more than attributes."""


SAME: dict[str, tuple[Any, Any]] = {
    "numbers": (1, 1),
    "no number": (float("nan"), float("nan")),
    "texts in lists": ([("a", None)], [("a", None)]),
    "dictionaries": ({"a": {1, 2}}, {"a": {2, 1}}),
    "dtypes": (torch.float32, torch.float32),
    "objects": (Settings(a=1, b=Settings(c=[2])), Settings(a=1, b=Settings(c=[2]))),
    "partials": (functools.partial(pow, exp=2), functools.partial(pow, exp=2)),
}
OTHER: dict[str, tuple[Any, Any]] = {
    "numbers": (1, 2),
    "classes of numbers": (1, 1.0),
    "a flag and a number": (True, 1),
    "signs of zero": (0.0, -0.0),
    "orders of keys": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "objects": (Settings(a=1), Settings(a=2)),
    "tensors": (torch.zeros(1), torch.zeros(1)),
    "functions": (lambda x: x, lambda x: x),
    "modules with parameters": (nn.Linear(1, 1), nn.Linear(1, 1)),
    "objects with more than attributes": (Hidden([1]), Hidden([1])),
    "partials": (functools.partial(pow, exp=2), functools.partial(pow, exp=3)),
}


@pytest.mark.parametrize("name", SAME)
def test_equal_values(name: str) -> None:
    first, second = SAME[name]
    assert same_value(first, second)


@pytest.mark.parametrize("name", OTHER)
def test_values_that_may_differ(name: str) -> None:
    first, second = OTHER[name]
    assert same_value(first, first)
    assert not same_value(first, second)


def test_objects_that_hold_themselves_count_as_different() -> None:
    first, second = Settings(), Settings()
    first.held, second.held = first, second  # type: ignore[attr-defined]
    assert not same_value(first, second)
