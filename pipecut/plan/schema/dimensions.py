"""Dimensions of tensors: integers, or expressions in the samples and lengths of a microbatch."""

import ast
from collections.abc import Callable, Mapping
from functools import lru_cache

from pipecut.errors import PlanError

# `16`, or `16*batch`.
Dimension = int | str
# What expressions are evaluated for: the samples of a microbatch as `batch`, lengths by name.
Sizes = Mapping[str, int]

_OPERATIONS: dict[type, Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b,
}
# No dimension is larger, and no power in one needs a larger exponent: `9**9**9` must not be tried.
LARGEST, HIGHEST_EXPONENT = 1 << 62, 4


def evaluate(dimension: Dimension, sizes: Sizes) -> int:
    """A dimension for a microbatch of such sizes.

    Of expressions only integers, names of `sizes` and + - * // % ** are known. Raises PlanError.
    """
    if isinstance(dimension, int):
        return dimension
    try:
        value = _value(_parsed(dimension), sizes)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise PlanError(
            f"the plan has a dimension '{dimension}' that cannot be read: {error}"
        ) from None
    if value is None:
        known = " and ".join(sizes)
        raise PlanError(f"the plan has a dimension '{dimension}' that is no expression in {known}")
    return value


@lru_cache(maxsize=4096)
def _parsed(expression: str) -> ast.expr:
    """Each message of a step asks for the same few."""
    return ast.parse(expression, mode="eval").body


def _value(node: ast.AST, sizes: Sizes) -> int | None:
    """The value of a part of an expression; None where it is not one that a dimension may have."""
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return sizes.get(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _value(operand, sizes)
            return None if value is None else -value
        case ast.BinOp(left=left, op=operation, right=right):
            first, second = _value(left, sizes), _value(right, sizes)
            if first is None or second is None or not _allowed(operation, first, second):
                return None
            return _OPERATIONS[type(operation)](first, second)
    return None


def _allowed(operation: ast.operator, first: int, second: int) -> bool:
    if type(operation) not in _OPERATIONS or max(abs(first), abs(second)) > LARGEST:
        return False
    return not isinstance(operation, ast.Pow) or 0 <= second <= HIGHEST_EXPONENT
