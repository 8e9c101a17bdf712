"""State beside its arguments and modules that a layer's code reaches, and whether it changes.

What runs between two layers may change it: a global, an object that all layers hold. And by it, a
layer may learn which of them it is.
"""

import collections
import functools
import inspect
import os
import sys
import weakref
from array import array
from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy
import torch
from torch import nn

from pipecut.compiler.trace.rehearse.own_code import is_known
from pipecut.compiler.trace.stamp.code_noted import CodeNoted
from pipecut.compiler.trace.stamp.layers import Layer
from pipecut.compiler.trace.stamp.same_value import PLAIN

CONTENTS = (list, tuple, set, frozenset, collections.deque)
# Values of one state: more take longer to look at than a layer takes to trace.
MOST_VALUES = 20_000


class Unknown(Exception):
    """What a layer does cannot be told from its state; the text says why."""


@dataclass
class Reached:
    """What a layer's code reaches; `modules` are the model's. `before` is its state at first."""

    layer: Layer
    noted: CodeNoted
    modules: Collection[nn.Module]
    before: list[Any] = field(init=False, default_factory=list)
    unknown: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.unknown = self.noted.past_watching
        try:
            self.before = [] if self.unknown else self._state()
        except Unknown as reason:
            self.unknown = str(reason)

    def changed(self) -> str:
        """Why the layer may do something else now; "" where it does the same."""
        if self.unknown:
            return self.unknown
        try:
            now = self._state()
        except Unknown as reason:
            return str(reason)
        same = len(now) == len(self.before) and all(
            a is b or (type(a) is str and a == b) for a, b in zip(self.before, now, strict=True)
        )
        return "" if same else "what it reads beside its arguments changes between layers"

    def _state(self) -> list[Any]:
        walk = _Walk(self.noted, self.layer.modules.values(), self.modules)
        walk.add(str(dict(os.environ)))
        for value in self.layer.attributes().values():
            walk.add(value)
        for code, held in self.noted.ran.items():
            for name in code.co_names:
                walk.add(held.get(name))
                # What it imports while it runs.
                walk.add(sys.modules.get(name))
        classes = {cls for x in self.layer.modules.values() for cls in type(x).__mro__}
        for cls in sorted(classes, key=lambda cls: (cls.__module__, cls.__qualname__)):
            if not is_known(cls.__module__):
                for value in list(vars(cls).values()):
                    walk.add(value)
        return walk.values


class _Walk:
    """Values that others lead to: texts stand for plain ones, anything else for itself."""

    def __init__(
        self, noted: CodeNoted, own: Collection[nn.Module], modules: Collection[nn.Module]
    ) -> None:
        self._ran, self._names = noted.ran, noted.names
        self._own, self._modules = set(map(id, own)), set(map(id, modules))
        self._seen: dict[int, Any] = {}
        self.values: list[Any] = []

    def add(self, value: Any) -> None:
        """A value and all that it leads to. Raises Unknown."""
        waiting = [value]
        while waiting:
            value = waiting.pop()
            if isinstance(value, PLAIN):
                self.values.append(f"{type(value).__name__} {value!r}")
                continue
            if id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            if len(self._seen) > MOST_VALUES:
                raise Unknown("its code reaches too much")
            self.values.append(value)
            waiting += self._within(value)

    def _within(self, value: Any) -> list[Any]:
        match value:
            case nn.Module():
                if id(value) in self._modules and id(value) not in self._own:
                    raise Unknown("it refers to modules outside of it")
                return []
            case torch.Tensor():
                return [value._version]
            case dict():
                return [f"{len(value)}", *value.keys(), *value.values(), *_of_object(value)]
            case _ if isinstance(value, CONTENTS):
                return [f"{len(value)}", *value, *_of_object(value)]
            case bytearray() | array() | numpy.ndarray():
                return [bytes(value) if isinstance(value, bytearray) else value.tobytes()]
            case functools._lru_cache_wrapper():
                return _of_cached(value)
            case functools.partial():
                return [value.func, value.args, value.keywords]
            case MethodType():
                return [value.__self__, value.__func__]
            case property():
                return [value.fget]
            case classmethod() | staticmethod():
                return [value.__func__]
            case weakref.ref():
                return [value()]
            case ContextVar():
                return [value.get(None)]
            case FunctionType():
                return _of_function(value) if value.__code__ in self._ran else []
            case type() | ModuleType():
                return self._named(value)
            case collections.abc.Iterator():
                raise Unknown("its code reaches an iterator")
        return _of_object(value)

    def _named(self, owner: Any) -> list[Any]:
        """What the code may name of a class or a module."""
        held = vars(owner)
        named = [held[name] for name in sorted(self._names & held.keys())]
        if not is_known(owner.__module__ if isinstance(owner, type) else owner.__name__):
            return named
        # Its own state is taken to matter to nobody, but what is put there may.
        self.values += [f"{value!r}" if isinstance(value, PLAIN) else value for value in named]
        return []


def _of_function(function: FunctionType) -> list[Any]:
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    return [*cells, function.__defaults__, function.__kwdefaults__, vars(function)]


def _of_cached(function: Any) -> list[Any]:
    """What a function may return whose code has run before."""
    wrapped = inspect.unwrap(function)
    if not isinstance(wrapped, FunctionType) or is_known(wrapped.__module__):
        return []
    held = wrapped.__globals__
    return [*_of_function(wrapped), *(held.get(name) for name in wrapped.__code__.co_names)]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _of_object(value: Any) -> list[Any]:
    cls = type(value)
    if cls.__module__.partition(".")[0] in ("torch", "logging", "enum"):
        return []
    slots = [name for c in cls.__mro__ for name in vars(c).get("__slots__", ())]
    held = [getattr(value, name, None) for name in slots if not name.startswith("__")]
    return [*held, vars(value)] if hasattr(value, "__dict__") else held
