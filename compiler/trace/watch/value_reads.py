"""Answers a model that asks for a tensor's value while it is traced, where it has none.

A constant's value is known. Where a line only raises an error for one answer, the trace takes the
other one. Where the example batch is given, its values answer the rest. Every answer that is not a
constant's is marked in the trace, so that a run checks it.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_any, tree_leaves, tree_map

from pipecut.compiler.choices import Choice
from pipecut.compiler.trace.watch.choices import Choices
from pipecut.compiler.trace.watch.ctc_targets import CtcTargets
from pipecut.compiler.trace.watch.known_values import Given, KnownValues
from pipecut.compiler.trace.watch.raising import condition_at
from pipecut.compiler.trace.watch.read_number import ReadNumber
from pipecut.compiler.trace.watch.reading_frame import place_of, reading_frame, within

Tensor = torch.Tensor
NUMBERS = {Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.item}
# Functions that compare two tensors, and what does so by element.
COMPARES: dict[Any, Callable[..., Tensor]] = {
    torch.equal: torch.eq,
    Tensor.equal: torch.eq,
    torch.allclose: torch.isclose,
    Tensor.allclose: torch.isclose,
}
TRUTHS = {Tensor.__bool__, torch.is_nonzero, Tensor.is_nonzero, *COMPARES}
LISTS = {Tensor.tolist}
READS = TRUTHS | NUMBERS | LISTS
INDEXED = {Tensor.__getitem__, Tensor.__setitem__}
# The position of an argument that may be a tensor whose values are sizes.
SIZES = {torch.tensor_split: 1, Tensor.tensor_split: 1}
NOTHING = object()


class Counting(TorchFunctionMode):
    """Counts calls, which tell how far a trace came."""

    def __init__(self, choices: Choices) -> None:
        super().__init__()
        self.choices = choices

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.choices.calls += 1
        return func(*args, **(kwargs or {}))


class ValueReads(TorchFunctionMode):
    """Around a forward that is traced.

    With `plain`, numbers that the example batch tells are Python's own, and are all checked.
    """

    def __init__(
        self, choices: Choices | None = None, given: Given | None = None, plain: bool = False
    ) -> None:
        super().__init__()
        self.choices = choices if choices is not None else Choices()
        self.plain = plain
        self.values = KnownValues(given)
        self.targets = CtcTargets(self._check_lengths)
        self.marking = False
        self.patches = ExitStack()

    def __enter__(self) -> "ValueReads":
        for cls in (FakeTensor, FunctionalTensor):
            # A method of Python, which no mode sees.
            listed = self._listing(cls.tolist)
            self.patches.enter_context(mock.patch.object(cls, "tolist", listed))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self.patches.close()

    def _listing(self, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """In place of the tolist of tensors without values."""

        def tolist(tensor: Tensor) -> Any:
            answer = NOTHING if self.marking else self._read(Tensor.tolist, (tensor,), {})
            return original(tensor) if answer is NOTHING else answer

        return tolist

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.marking:
            return func(*args, **kwargs)
        self.choices.calls += 1
        if func in READS:
            answer = self._read(func, args, kwargs)
            if answer is not NOTHING:
                return answer
        args, kwargs = self._plain(func, args, kwargs)
        args, kwargs = self.targets.in_rows(func, args, kwargs)
        result = func(*args, **kwargs)
        self.targets.follow(func, args, result)
        self.values.follow(func, args, kwargs, result)
        return result

    def _read(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The answer to a read; NOTHING where only the trace itself can give one."""
        if not args or not isinstance(args[0], Tensor):
            return NOTHING
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        values, frame = self.values.values(func, args, kwargs), reading_frame()
        if values and all(map(self.values.is_constant, tensors)):
            if all(value == values[0] for value in values):
                return values[0]
        if self.values.given is None:
            # Of a constant that differs between batch sizes.
            values = ()
        if func in TRUTHS or (args[0].dtype == torch.bool and func in NUMBERS):
            return self._truth(func, args, kwargs, values[-1:], frame)
        if not values or _is_nan(values[-1]):
            return self._unanswered(frame)
        return self._number(func, args[0], values[-1], frame)

    def _truth(
        self, func: Any, args: Any, kwargs: Any, values: Sequence[Any], frame: FrameType
    ) -> Any:
        asked = condition_at(frame)
        if not values and asked.goes_on is None:
            return self._unanswered(frame)
        answer = bool(values[0]) if values else bool(asked.goes_on)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        told = bool(values) and not self.values.is_usual(tensors)
        self.choose(lambda: _condition(func, args, kwargs), answer, frame, told)
        return values[0] if values else answer

    def _number(self, func: Any, tensor: Tensor, value: Any, frame: FrameType) -> Any:
        """What the example batch tells: what is done with it says what must be checked."""
        words, place = condition_at(frame).words, place_of(frame)
        if func not in LISTS:
            number = ReadNumber(self, self.unwatched(tensor.clone), value, words, place)
            # Python takes nothing but its own numbers from int(t), float(t) and x[t].
            return number.number() if self.plain or func is not Tensor.item else number
        for size in tensor.shape:
            # A list has as many elements for every batch: sizes that follow it become fixed.
            int(size)
        choice = Choice(f"{words} == {value}", place, True, from_values=True)
        self.mark(lambda: (tensor == torch.tensor(value, dtype=tensor.dtype)).all(), choice)
        return value

    def choose(
        self,
        condition: Callable[[], Tensor],
        answer: bool,
        frame: FrameType,
        from_values: bool = True,
    ) -> None:
        """Mark a condition that the code of a frame asks for."""
        asked = condition_at(frame)
        raises = asked.goes_on == answer
        told = from_values and not raises
        words = f"{asked.words or 'a value'}{within(frame)}"
        self.mark(condition, Choice(words, place_of(frame), answer, raises, told))

    def mark(self, condition: Callable[[], Tensor], choice: Choice) -> None:
        """Trace a condition, and mark it."""

        def traced() -> None:
            asked = condition()
            self.choices.mark(asked.reshape(()) if asked.dim() else asked, choice)

        self.unwatched(traced)

    def _check_lengths(self, condition: Tensor) -> None:
        words = "each target of ctc_loss is as long as what was selected"
        self.mark(lambda: condition, Choice(words, place_of(reading_frame()), True))

    def unwatched(self, traced: Callable[[], Any]) -> Any:
        """What is traced past this mode."""
        marking, self.marking = self.marking, True
        try:
            return traced()
        finally:
            self.marking = marking

    def _unanswered(self, frame: FrameType) -> Any:
        self.choices.unanswered.append(place_of(frame))
        return NOTHING

    def _plain(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with numbers in place of what the example batch tells."""
        if tree_any(_is_number, (args, kwargs)):
            args, kwargs = tree_map(_as_number, (args, kwargs))
        if func in INDEXED:
            args = (args[0], self._plain_index(args[1]), *args[2:])
        at = SIZES.get(func, len(args))
        if at < len(args):
            args = (*args[:at], self._listed(args[at]), *args[at + 1 :])
        return args, kwargs

    def _plain_index(self, index: Any) -> Any:
        """An index whose slices hold numbers."""
        if isinstance(index, tuple):
            return tuple(map(self._plain_index, index))
        if isinstance(index, slice):
            return slice(*map(self._bound, (index.start, index.stop, index.step)))
        return index

    def _bound(self, bound: Any) -> Any:
        if isinstance(bound, Tensor):
            answer = self._read(Tensor.__index__, (bound,), {})
            bound = bound if answer is NOTHING else answer
        return _as_number(bound)

    def _listed(self, argument: Any) -> Any:
        """A tensor of sizes as a list, where its values are known."""
        if not isinstance(argument, Tensor):
            return argument
        answer = self._read(Tensor.tolist, (argument,), {})
        return argument if answer is NOTHING else answer


def _condition(func: Any, args: Any, kwargs: Any) -> Tensor:
    """What a read asks for, as a boolean tensor."""
    if func in COMPARES:
        return COMPARES[func](*args, **kwargs).all()
    tensor: Tensor = args[0]
    return tensor if tensor.dtype == torch.bool else tensor != 0


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, ReadNumber)


def _as_number(leaf: Any) -> Any:
    return leaf.number() if isinstance(leaf, ReadNumber) else leaf


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
