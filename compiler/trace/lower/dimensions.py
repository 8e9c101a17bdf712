"""Sizes of an exported program: sympy expressions to numbers and Python expressions in `batch`."""

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
    """A program for a batch of any size has something that stage code cannot write."""


@dataclass(frozen=True)
class Dimension:
    """A size: an int or an expression in `batch`, and its number for one microbatch."""

    code: int | str
    number: int


class Dimensions:
    """Sizes of one program. `dynamic`: it takes a batch of any size."""

    def __init__(self, microbatch: int, dynamic: bool) -> None:
        self.microbatch, self.dynamic = microbatch, dynamic
        self._known: dict[Any, Dimension] = {}

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
        if any(map(follows_data, symbols)) or (len(symbols) > 1 and not self.dynamic):
            raise DependsOnData(
                f"a tensor's size depends on data ({expression}); "
                "pipecut needs sizes that follow the batch"
            )
        if len(symbols) > 1:
            raise NeedsFixedBatch(f"a tensor's size is {expression}")
        in_batch = expression.xreplace(dict.fromkeys(symbols, BATCH))
        number = int(in_batch.subs(BATCH, self.microbatch))
        code = PythonPrinter().doprint(in_batch) if in_batch.free_symbols else number
        return Dimension(code, number)


def follows_data(symbol: Any) -> bool:
    """Whether a symbol of torch's stands for what only a tensor's values tell."""
    return str(symbol).startswith(UNBACKED)
