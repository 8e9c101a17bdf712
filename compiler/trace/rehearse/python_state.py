"""Python state that a model's code reaches: what it is, and putting it back.

That is what its modules hold as attributes, and what these lead to; globals, class attributes,
closures and default arguments of the user's own files; caches of functions. Of an installed
package, globals and class attributes are put back, and not looked into.
"""

import collections
import contextvars
import functools
import itertools
import os
import random
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import numpy
import torch
from torch import nn

from pipecut.compiler.trace.rehearse.own_code import is_known, is_own, modules_of
from pipecut.compiler.trace.watch.attributes import MODULES_OWN

# Values with where they are.
Members = list[tuple[str, Any]]
PLAIN = (bool, int, float, complex, str, bytes, type(None))
# Values that are looked at: a table of numbers is data, no state.
MOST_VALUES = 20_000
MOST_IN_CONTAINER = 4_096
# Packages whose objects hold nothing of a model's.
OF_MACHINERY = ("pipecut", "torch", "logging", "enum", "sympy", "_io", "unittest")
# Of a class, what holds no state.
OF_CLASSES = ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__")
# What torch keeps hooks in.
OF_HOOKS = (dict, collections.OrderedDict)
# What a forward does to modules by way of torch, which puts it back.
OF_MODULES = ("_parameters", "_modules")


@dataclass
class PythonState:
    """Plain values by where they are, and for what may change a function that puts it back.

    `tensors` are those that are no parameter or buffer, by where they are.
    """

    plain: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    _put_back: list[Callable[[], None]] = field(default_factory=list)
    _buffers: list[Callable[[], None]] = field(default_factory=list)
    _seen: dict[int, Any] = field(default_factory=dict)

    @staticmethod
    def of(model: nn.Module, *functions: Any) -> "PythonState":
        """What it is now; `functions` are others than the model's own that forward calls."""
        state = PythonState()
        roots: Members = [("os.environ", getattr(os.environ, "_data", {}))]
        for path, module in model.named_modules():
            roots += state._of_module(path, module)
        for owner in modules_of(model, *functions):
            roots.append((owner.__name__, owner))
        for cls in {cls for module in model.modules() for cls in type(module).__mro__}:
            if cls.__module__.startswith("torch."):
                state._hold_names(f"{cls.__module__}.{cls.__qualname__}", cls)
        state._walk(roots)
        return state

    def put_back(self) -> None:
        """Let everything be as it was when this was made, as far as it can be."""
        for restore in (*self._buffers, *self._put_back):
            # A user's class may refuse what any other one takes.
            with suppress(Exception):
                restore()

    def put_back_buffers(self) -> None:
        """Let modules have the buffers that they had when this was made."""
        for restore in self._buffers:
            restore()

    def change_from(self, before: "PythonState") -> Iterator[str]:
        """Where plain values are others than before."""
        for path in {**self.plain, **before.plain}:
            if path not in self.plain or path not in before.plain:
                yield path
            elif not _same(self.plain[path], before.plain[path]):
                yield path

    def _walk(self, roots: Iterable[tuple[str, Any]]) -> None:
        waiting = list(roots)[::-1]
        while waiting and len(self._seen) < MOST_VALUES:
            path, value = waiting.pop()
            if isinstance(value, PLAIN):
                self.plain[path] = value
            elif isinstance(value, torch.Tensor):
                self.tensors[path] = value
            elif id(value) not in self._seen:
                # Kept, so that no other object takes its id.
                self._seen[id(value)] = value
                # A user's class may do anything where it is asked for what it holds.
                with suppress(Exception):
                    waiting += self._within(path, value)

    def _within(self, path: str, value: Any) -> Members:
        """What a value leads to; what it holds is noted."""
        match value:
            case nn.Module() | torch.dtype() | torch.device():
                return []
            case ModuleType():
                return self._of_python_module(path, value)
            case type():
                return self._of_class(path, value)
            case FunctionType():
                return self._of_function(path, value)
            case MethodType():
                return [(path, value.__func__), (path, value.__self__)]
            case property():
                return [(path, value.fget)]
            case classmethod() | staticmethod():
                return [(path, value.__func__)]
            case functools.partial():
                return [(path, value.func), (path, value.args), (path, value.keywords)]
            case weakref.ref():
                return [(path, value())]
            case dict():
                return self._of_dict(path, value)
            case list() | tuple() | set() | frozenset() | collections.deque():
                return self._of_sequence(path, value)
            case functools._lru_cache_wrapper():
                size = value.cache_info().currsize
                self._put_back.append(functools.partial(_empty_again, value, size))
                return [(path, value.__wrapped__)]
        return self._of_hidden(path, value) or self._of_object(path, value)

    def _of_module(self, path: str, module: nn.Module) -> Members:
        held = vars(module)
        before = dict(held)
        self._put_back.append(lambda: _refill(held, before))
        for names, restores in ((OF_MODULES, self._put_back), (("_buffers",), self._buffers)):
            for name in names:
                tensors = held[name]
                restores.append(functools.partial(_refill, tensors, dict(tensors)))
        name = f"{path}." if path else ""
        hooks = [(f"{name}{hook}", before[hook]) for hook in before if "_hooks" in hook]
        # A module has a dozen of them, most of them empty.
        empty = [held for _, held in hooks if type(held) in OF_HOOKS and not held]
        self._put_back.append(functools.partial(_empty_all, empty))
        hooks = [(at, held) for at, held in hooks if type(held) not in OF_HOOKS or held]
        own = [(f"{name}{key}", v) for key, v in before.items() if key not in MODULES_OWN]
        for kind, parts in (("module", module._modules), ("parameter", module._parameters)):
            for child, part in parts.items():
                self.plain[f"{name}{child} ({kind})"] = id(part)
        return [*hooks, *own]

    def _of_python_module(self, path: str, module: ModuleType) -> Members:
        if is_known(module.__name__):
            return []
        held = vars(module)
        self._put_back.append(functools.partial(_refill, held, dict(held)))
        inside = [(f"{path}.{n}", v) for n, v in held.items() if not n.startswith("__")]
        if is_own(module):
            return inside
        caches = (functools._lru_cache_wrapper, dict, list, set)
        return [(p, v) for p, v in inside if isinstance(v, caches)]

    def _of_class(self, path: str, cls: type) -> Members:
        if is_known(cls.__module__):
            return []
        self._hold_names(path, cls)
        return [(f"{path}.{n}", v) for n, v in vars(cls).items() if n not in OF_CLASSES]

    def _hold_names(self, path: str, cls: type) -> None:
        """Put back what names a class has, and note those of plain values."""
        before = {n: v for n, v in vars(cls).items() if n not in OF_CLASSES}

        def restore() -> None:
            for name in vars(cls).keys() - before.keys() - set(OF_CLASSES):
                delattr(cls, name)
            for name, value in before.items():
                if vars(cls).get(name) is not value:
                    setattr(cls, name, value)

        self._put_back.append(restore)
        for name, value in before.items():
            if isinstance(value, PLAIN) and not name.startswith("__"):
                self.plain[f"{path}.{name}"] = value

    def _of_function(self, path: str, function: FunctionType) -> Members:
        # A wrapper has the module of what it wraps, as that of a tracer in place of a forward.
        if is_known(function.__globals__.get("__name__")):
            return []
        inside: Members = []
        names = function.__code__.co_freevars
        for name, cell in zip(names, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:
                continue
            self._put_back.append(functools.partial(_set, cell, "cell_contents", content))
            inside.append((f"{path}.{name}", content))
        held = vars(function)
        self._put_back.append(functools.partial(_refill, held, dict(held)))
        inside += [(f"{path}.{n}", v) for n, v in held.items()]
        code = function.__code__
        names = code.co_varnames[: code.co_argcount][-len(function.__defaults__ or ()) or None :]
        given = zip(names, function.__defaults__ or (), strict=False)
        keywords = (function.__kwdefaults__ or {}).items()
        return [*inside, *((f"{path}.{name}", value) for name, value in (*given, *keywords))]

    def _of_dict(self, path: str, held: dict[Any, Any]) -> Members:
        before = _copied(held)
        self._put_back.append(functools.partial(_refill, held, before))
        self.plain[f"{path} (its keys)"] = [k for k in before if isinstance(k, PLAIN)], len(before)
        if len(before) > MOST_IN_CONTAINER:
            return []
        return [(f"{path}[{key!r}]", value) for key, value in before.items()]

    def _of_sequence(self, path: str, held: Any) -> Members:
        values = list(held)
        if isinstance(held, list | set | collections.deque):

            def restore() -> None:
                pairs = zip(held, values, strict=False)
                if len(held) != len(values) or any(a is not b for a, b in pairs):
                    held.clear()
                    refill = held.update if isinstance(held, set) else held.extend
                    refill(values)

            self._put_back.append(restore)
            self.plain[f"{path} (its length)"] = len(values)
        if len(values) > MOST_IN_CONTAINER:
            return []
        return [(f"{path}[{index}]", value) for index, value in enumerate(values)]

    def _of_hidden(self, path: str, value: Any) -> Members:
        """State that is no attribute: of random generators, iterators, variables of a context."""
        match value:
            case random.Random():
                now: Any = value.getstate()
                self._put_back.append(functools.partial(value.setstate, now))
            case numpy.random.Generator():
                generator = value.bit_generator
                now = generator.state
                self._put_back.append(functools.partial(setattr, generator, "state", now))
            case numpy.ndarray() if value.nbytes < MOST_VALUES:
                copy = value.copy()
                now = copy.tobytes() if copy.dtype != object else b""
                if value.flags.writeable:
                    self._put_back.append(functools.partial(numpy.copyto, value, copy))
            case GeneratorType():
                frame = value.gi_frame
                local = frame.f_locals if frame is not None else {}
                now = (
                    frame and frame.f_lasti,
                    {n: v for n, v in local.items() if isinstance(v, PLAIN)},
                )
            case itertools.count() | itertools.cycle():
                now = repr(value) if isinstance(value, itertools.count) else id(value)
            case contextvars.ContextVar():
                return self._of_variable(path, value)
            case threading.local():
                held = vars(value)
                self._put_back.append(functools.partial(_refill, held, dict(held)))
                return [(f"{path}.{n}", v) for n, v in held.items()]
            case _:
                return []
        self.plain[f"{path} (its state)"] = now
        return [("", ())]

    def _of_variable(self, path: str, variable: contextvars.ContextVar[Any]) -> Members:
        try:
            content = variable.get()
        except LookupError:
            # What has no value cannot be made to have none again.
            return [("", ())]

        def restore() -> None:
            if variable.get() is not content:
                variable.set(content)

        self._put_back.append(restore)
        return [(f"{path} (its value)", content)]

    def _of_object(self, path: str, value: Any) -> Members:
        cls = type(value)
        if cls.__module__.partition(".")[0] in OF_MACHINERY:
            return []
        inside: Members = []
        for slot in (s for c in cls.__mro__ for s in _slots(c) if not s.startswith("__")):
            content = getattr(value, slot, None)
            if not is_known(cls.__module__):
                self._put_back.append(functools.partial(_set, value, slot, content))
            inside.append((f"{path}.{slot}", content))
        if hasattr(value, "__dict__"):
            held = vars(value)
            if isinstance(held, dict):
                self._put_back.append(functools.partial(_refill, held, dict(held)))
            inside += [(f"{path}.{n}", v) for n, v in held.items()]
        return inside


@contextmanager
def put_back_after(model: nn.Module, *functions: Any) -> Iterator[PythonState]:
    """Around forwards: afterwards what they left in Python is as it was before."""
    state = PythonState.of(model, *functions)
    try:
        yield state
    finally:
        state.put_back()


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _set(owner: Any, name: str, value: Any) -> None:
    if getattr(owner, name, None) is not value:
        object.__setattr__(owner, name, value)


def _copied(held: dict[Any, Any]) -> dict[Any, Any]:
    """What a dictionary has, past methods that its class may have of its own."""
    return dict(_kind(held).items(held))


def _refill(held: dict[Any, Any], before: dict[Any, Any]) -> None:
    kind, now = _kind(held), _copied(held)
    for key in now.keys() - before.keys():
        kind.__delitem__(held, key)
    for key, value in before.items():
        if key not in now or now[key] is not value:
            kind.__setitem__(held, key, value)
    if list(kind.keys(held)) != list(before):
        kind.clear(held)
        for key, value in before.items():
            kind.__setitem__(held, key, value)


def _empty_all(hooks: Iterable[dict[int, Any]]) -> None:
    for held in hooks:
        if held:
            _refill(held, {})


def _kind(held: dict[Any, Any]) -> Any:
    return collections.OrderedDict if isinstance(held, collections.OrderedDict) else dict


def _empty_again(cached: Any, size: int) -> None:
    if cached.cache_info().currsize != size:
        cached.cache_clear()


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(repr(value) == repr(other))
