"""What a forward leaves in Python is seen by where it is, and put back."""

import collections
import contextvars
import functools
import random
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from torch import nn

from pipecut.compiler.trace.rehearse.own_code import line_that_reads
from pipecut.compiler.trace.rehearse.python_state import PythonState, put_back_after


class Held:
    def __init__(self, value: Any) -> None:
        self.value = value


class Picky(dict[str, Any]):
    """As transformers has one: it makes what it is asked for."""

    def __getitem__(self, key: str) -> Any:
        raise TypeError("made, not held")


class Model(nn.Module):
    calls = 0

    def __init__(self, held: Any = None) -> None:
        super().__init__()
        self.held = held
        self.layer = nn.Linear(2, 2)


COUNT = 0
VARIABLE = contextvars.ContextVar("of_test", default=0)
LOCAL = threading.local()


@functools.lru_cache
def cached(key: int) -> object:
    return object()


def count(_: Any) -> None:
    global COUNT
    COUNT += 1


def count_in_class(_: Any) -> None:
    Model.calls += 1


# What is held, what changes it, and what it is then.
CHANGES: dict[str, tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "a list": ([1], lambda h: h.append(2), len),
    "a list in an object in a dict": (
        {"a": Held([1])},
        lambda h: h["a"].value.append(2),
        lambda h: len(h["a"].value),
    ),
    "an order": (
        collections.OrderedDict(a=1, b=2),
        lambda h: h.move_to_end("a"),
        lambda h: list(h),
    ),
    "a deque": (collections.deque([1], maxlen=2), lambda h: h.append(3), list),
    "a set": ({1}, lambda h: h.add(2), len),
    "a generator of random numbers": (random.Random(1), lambda h: h.random(), lambda h: h.random()),
    "an array": (numpy.zeros(2), lambda h: h.__setitem__(0, 1), lambda h: h.tolist()),
    "a dictionary with methods of its own": (Picky(a=1), lambda h: h.update(b=2), len),
    "a global": (None, count, lambda _: COUNT),
    "a class": (None, count_in_class, lambda _: Model.calls),
    "a variable of a context": (None, lambda _: VARIABLE.set(3), lambda _: VARIABLE.get()),
    "what a thread has": (
        None,
        lambda _: setattr(LOCAL, "calls", 1),
        lambda _: getattr(LOCAL, "calls", 0),
    ),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_change_is_seen_and_put_back(name: str) -> None:
    held, change, read = CHANGES[name]
    model = Model(held)
    if name == "a generator of random numbers":
        first = random.Random(1).random()
    else:
        first = read(held)
    with put_back_after(model) as before:
        change(held)
        assert list(PythonState.of(model).change_from(before)), "nothing was seen"
    assert read(held) == first


def test_what_does_not_change_is_no_change() -> None:
    model = Model({"a": Held([1, 2.0, "x"])})
    assert not list(PythonState.of(model).change_from(PythonState.of(model)))


def test_a_function_forgets_what_it_was_asked_meanwhile() -> None:
    with put_back_after(Model()):
        kept = cached(1)
    assert cached(1) is not kept


def test_attributes_and_modules_that_forward_replaces_are_put_back() -> None:
    model = Model([1])
    layer = model.layer
    with put_back_after(model) as before:
        model.layer, model.new = nn.Linear(2, 2), 3
        changed = set(PythonState.of(model).change_from(before))
        assert "layer (module)" in changed and "new" in changed
    assert model.layer is layer and not hasattr(model, "new")


def test_the_line_that_reads_a_name_is_found_and_one_that_writes_is_not() -> None:
    here = [sys.modules[__name__]]
    assert line_that_reads("COUNT", here).split(":")[0].endswith("test_python_state.py")
    # Written backwards, or this very line would read it.
    assert line_that_reads("erehwon"[::-1], here) == ""


def test_hooks_that_a_forward_adds_are_seen_and_taken_back() -> None:
    model = Model()
    before = PythonState.of(model)
    model.layer.register_forward_hook(lambda *_: None)
    (path,) = {
        path.partition(" ")[0]
        for path in PythonState.of(model).change_from(before)
        if "_forward_hooks" in path and "[" not in path
    }
    assert path == "layer._forward_hooks"
    before.put_back()
    assert not model.layer._forward_hooks and not [*PythonState.of(model).change_from(before)]
