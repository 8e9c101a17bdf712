"""Whether what calls of an opaque module leave in Python depends on the last call alone.

A plan runs forwards in an order of its own, replicas see other samples, and a resumed run begins
anew. So a call that follows another one must leave, and return, what it does from the first state.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import nn

from pipecut.compiler.trace.rehearse.own_code import is_own, line_that_reads, modules_of
from pipecut.compiler.trace.rehearse.python_state import PythonState
from pipecut.compiler.trace.watch.randomness import may_seed
from pipecut.errors import TraceError
from pipecut.model.opaque.nested import leaves_in

REMEDY = (
    "and a plan runs forwards in an order of its own, some of them twice, each replica on samples "
    "of its own; keep it in a buffer of the module (register_buffer), written in place, or make "
    "it anew of each batch"
)
KEYS = " (its keys)"
MODULE = " (module)"
# A table of a size: its key is a number, or a tuple of some.
OF_A_SIZE = re.compile(r"\[[\d(]")


@dataclass(frozen=True)
class _Left:
    """Python state by where it is, tensors as they were then, and what the call returned."""

    plain: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    result: list[Any]


class FirstState:
    """A module's state before its first call, to which all calls that are compared are put back."""

    def __init__(self, path: str, module: nn.Module, seed: int = 0) -> None:
        self.path, self.module, self.seed = path, module, seed
        self.state = PythonState.of(module)
        self.values = [(t, t.detach().clone()) for t in self._tensors(self.state).values()]

    def refuse_dependent(self, call: Callable[[], Any], other: Callable[[], Any]) -> bool:
        """Compare a call with itself after another one; whether either leaves anything.

        State and buffers are afterwards as they were. Raises TraceError where they differ, and
        whatever the calls raise.
        """
        now = PythonState.of(self.module)
        tensors = [*self.module.buffers(), *self._tensors(now).values()]
        values = [(tensor, tensor.detach().clone()) for tensor in tensors]
        buffers = values[: len(values) - len(self._tensors(now))]

        def run(calls: tuple[Callable[[], Any], ...], put_back: bool = True) -> _Left:
            if put_back:
                self.state.put_back()
                _write(self.values)
            for each in calls:
                _write(buffers)
                with _seeded(self.seed), torch.no_grad():
                    result = [_copy(leaf) for leaf in leaves_in(each())]
            return self._left(result)

        try:
            self.state.put_back()
            _write(self.values)
            nothing = self._left([])
            alone, other_alone = run((call,)), run((other,))
            after_other = run((call,), put_back=False)
            self._compare(alone, after_other)
            self._compare(other_alone, run((call, other)))
            left = (alone, other_alone)
            return any(next(_differences(nothing, each, True), "") for each in left)
        finally:
            now.put_back()
            _write(values)

    def _compare(self, alone: _Left, after_other: _Left) -> None:
        for place in _differences(alone, after_other):
            what, line = self._shown(place)
            if what:
                raise TraceError(
                    f"'{what}' depends on earlier forwards, not on the last one alone"
                    f"{f' ({line} reads it)' if line else ''}, {REMEDY}"
                )
        pairs = zip_longest(alone.result, after_other.result)
        if not all(_same(first, second) for first, second in pairs):
            raise TraceError(
                f"what '{self.path}' ({type(self.module).__name__}) returns depends on earlier "
                f"forwards, {REMEDY}"
            )

    def _shown(self, place: str) -> tuple[str, str]:
        """A place by its name in the model and the line that reads it; of a log neither."""
        sources = list(modules_of(self.module))
        names = re.findall(r"\w+", re.sub(r" \(.*", "", place))
        container = place.endswith((")", "]"))
        # An attribute is read by a package's code as well, a global only by the user's.
        outside = place.startswith("os.environ") or any(
            place.startswith(f"{source.__name__}.") for source in sources
        )
        searched = [source for source in sources if is_own(source)] if outside else sources
        lines = (line_that_reads(name, searched) for name in names[::-1][: 2 if container else 1])
        line = next(filter(None, lines), "")
        if outside:
            return (place if line else "", line)
        return (".".join(filter(None, (self.path, place))), line)

    def _left(self, result: list[Any]) -> _Left:
        state = PythonState.of(self.module)
        tensors = {at: t.detach().clone() for at, t in self._tensors(state).items()}
        return _Left(dict(state.plain), tensors, result)

    def _tensors(self, state: PythonState) -> dict[str, torch.Tensor]:
        """Tensors that are no parameter or buffer, and no view of one: those are carried on."""
        held = (*self.module.parameters(), *self.module.buffers())
        carried = {
            tensor.untyped_storage()._cdata for tensor in held if tensor.layout == torch.strided
        }
        return {
            at: tensor
            for at, tensor in state.tensors.items()
            if tensor.layout == torch.strided
            and not tensor.is_meta
            and tensor.untyped_storage()._cdata not in carried
        }


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Around a call, that each may draw the same."""
    generator = torch.default_generator
    with may_seed():
        drawn = generator.get_state()
        generator.manual_seed(seed)
    try:
        yield
    finally:
        with may_seed():
            generator.set_state(drawn)


def _differences(alone: _Left, after_other: _Left, exactly: bool = False) -> Iterator[str]:
    """Where state differs, but for entries that a table of sizes has beside those of `alone`."""
    for first, second in ((alone.plain, after_other.plain), (alone.tensors, after_other.tensors)):
        for place in {**first, **second}:
            # A module that is made again is compared by what it holds.
            if place.endswith(MODULE) and not exactly:
                continue
            if place.endswith(KEYS) and place in first and place in second and not exactly:
                continue
            if place in first:
                differs = place not in second or not _same(first[place], second[place])
            else:
                differs = exactly or not _is_entry(place, alone.plain)
            if differs:
                yield place


def _is_entry(place: str, plain: dict[str, Any]) -> bool:
    """Whether a place is within a table that is there, under a size."""
    starts = (match.start() for match in OF_A_SIZE.finditer(place))
    return any(f"{place[:start]}{KEYS}" in plain for start in starts)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if (first.shape, first.dtype) != (second.shape, second.dtype):
            return False
        return bool(((first == second) | ((first != first) & (second != second))).all())
    return type(first) is type(second) and repr(first) == repr(second)


def _copy(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf


def _write(values: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Let tensors have these values; those that have them are not written to."""
    with torch.no_grad():
        for tensor, value in values:
            if tensor.layout == torch.strided and not _same(tensor, value):
                tensor.detach().copy_(value)
