"""A number that the example batch told: what the model does with it is what a run must check.

Compared with another number, the comparison's answer is checked. Used in any other way, the number
itself is.
"""

import operator
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import torch

from pipecut.compiler.choices import Choice
from pipecut.compiler.trace.watch.reading_frame import reading_frame

COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
# What else Python does with a number.
USES = (
    *("int", "float", "complex", "index", "hash", "repr", "str", "round", "trunc", "floor"),
    *("ceil", "neg", "pos", "abs", "invert"),
    *(
        f"{side}{name}"
        for side in ("", "r")
        for name in (
            *("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow"),
            *("and", "or", "xor", "lshift", "rshift"),
        )
    ),
)


class Marks(Protocol):
    """Marks conditions in a trace."""

    def choose(self, condition: Callable[[], torch.Tensor], answer: bool, frame: FrameType) -> None:
        """A condition that the code of a frame asks for."""

    def mark(self, condition: Callable[[], torch.Tensor], choice: Choice) -> None:
        """A condition of a choice."""


class ReadNumber:
    """The number in a traced `tensor`; `words` and `place` are the source of its read."""

    __hash__: Any

    def __init__(
        self, marks: Marks, tensor: torch.Tensor, value: int | float, words: str, place: str
    ) -> None:
        self._marks, self._tensor, self._value = marks, tensor, value
        self._words, self._place, self._checked = words, place, False

    def number(self) -> int | float:
        """The number itself, which is checked from now on."""
        if not self._checked:
            self._checked = True
            words = f"{self._words} == {self._value}"
            choice = Choice(words, self._place, True, from_values=True)
            self._marks.mark(lambda: self._tensor == self._value, choice)
        return self._value

    def compare(self, name: str, other: Any) -> Any:
        """The answer of a comparison."""
        compare = getattr(operator, name)
        other = other.number() if isinstance(other, ReadNumber) else other
        if not isinstance(other, int | float):
            return compare(self.number(), other)
        answer = bool(compare(self._value, other))
        self._marks.choose(lambda: compare(self._tensor, other), answer, reading_frame())
        return answer

    def __bool__(self) -> bool:
        return bool(self.compare("ne", 0))

    def __format__(self, form: str) -> str:
        return format(self.number(), form)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.number(), name)


def _compared(name: str) -> Callable[[ReadNumber, Any], Any]:
    return lambda number, other: number.compare(name, other)


def _used(name: str) -> Callable[..., Any]:
    def use(number: ReadNumber, *others: Any) -> Any:
        plain = [o.number() if isinstance(o, ReadNumber) else o for o in others]
        return getattr(number.number(), name)(*plain)

    return use


for _name in COMPARISONS:
    setattr(ReadNumber, f"__{_name}__", _compared(_name))
for _name in USES:
    setattr(ReadNumber, f"__{_name}__", _used(f"__{_name}__"))
