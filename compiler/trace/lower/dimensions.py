"""Sizes of an exported program: sympy expressions to numbers and Python expressions.

What they follow goes by `batch` and the names of lengths.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.utils._sympy.printers import PythonPrinter

from pipecut.errors import TraceError

BATCH = sympy.Symbol("batch", integer=True, positive=True)
# torch names a symbol u0 or zuf0 where its value depends on data, not on the batch's size.
UNBACKED = ("u", "zuf")


class DependsOnData(TraceError):
    """A program has a size or a number that only the batch's values tell."""


class NeedsFixedBatch(TraceError):
    """A program for batches of more than one size has something that stage code cannot write."""


@dataclass(frozen=True)
class Dimension:
    """A size: an int or an expression in the batch's sizes, and its number for one microbatch.

    `read` are the names in it of sizes that depend on data.
    """

    code: int | str
    number: int
    read: tuple[str, ...] = ()


class Dimensions:
    """Sizes of one program. `dynamic`: it takes a batch of any size.

    `names` are the lengths that symbols of the program stand for, `longest` their numbers.
    """

    def __init__(
        self,
        microbatch: int,
        dynamic: bool,
        names: Mapping[Any, str] | None = None,
        longest: Mapping[str, int] | None = None,
    ) -> None:
        self.microbatch, self.dynamic, self.names = microbatch, dynamic, names or {}
        self.numbers: dict[Any, int] = {BATCH: microbatch}
        self.numbers |= {_size(name): most for name, most in (longest or {}).items()}
        self._known: dict[Any, Dimension] = {}
        # Symbols of sizes that depend on data, which operators of the graph read, to their names.
        self.read: dict[Any, str] = {}

    def of(self, size: Any) -> Dimension:
        """Raises TraceError where a size follows something else than the batch."""
        if isinstance(size, int):
            return Dimension(size, size)
        expression = sympy.sympify(size.node.expr if isinstance(size, torch.SymInt) else size)
        if expression not in self._known:
            self._known[expression] = self._written(expression)
        return self._known[expression]

    def _written(self, expression: Any) -> Dimension:
        symbols = expression.free_symbols
        of_batch = [s for s in symbols if s not in self.names and s not in self.read]
        if any(map(follows_data, of_batch)) or (len(of_batch) > 1 and not self.dynamic):
            raise DependsOnData(
                f"a tensor's size depends on data ({expression}); "
                "pipecut needs sizes that follow the batch"
            )
        if len(of_batch) > 1:
            raise NeedsFixedBatch(f"a tensor's size is {expression}")
        by_name = self.named(expression)
        number = int(by_name.subs(self.numbers))
        code = PythonPrinter().doprint(by_name) if by_name.free_symbols else number
        read = {self.read[symbol] for symbol in symbols if symbol in self.read}
        return Dimension(code, number, tuple(sorted(read)))

    def named(self, expression: Any) -> Any:
        """An expression in the names of what sizes follow; other symbols stand for the batch."""
        symbols = expression.free_symbols
        names = {symbol: self.names.get(symbol, BATCH.name) for symbol in symbols} | self.read
        return expression.xreplace({s: _size(names[s], s in self.read) for s in symbols})

    @property
    def read_names(self) -> set[str]:
        """The names of sizes that depend on data."""
        return set(self.read.values())

    def read_from_now(self, symbol: Any, name: str, number: int) -> None:
        """Let a symbol of a size that depends on data have a name, and a number for costs."""
        self.read[symbol] = name
        self.numbers[_size(name, may_be_none=True)] = number


def follows_data(symbol: Any) -> bool:
    """Whether a symbol of torch's stands for what only a tensor's values tell."""
    return str(symbol).startswith(UNBACKED)


def _size(name: str, may_be_none: bool = False) -> Any:
    if may_be_none:
        return sympy.Symbol(name, integer=True, nonnegative=True)
    return sympy.Symbol(name, integer=True, positive=True)
