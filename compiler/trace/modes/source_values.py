"""What an expression of the user's source evaluates to in a frame, where that is certain."""

import ast
import builtins
from dataclasses import dataclass
from types import FrameType
from typing import Any

PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Known:
    """A value that is certain."""

    value: Any


def value_of(node: ast.AST, frame: FrameType) -> Known | None:
    """The value of names, attributes and comparisons; None where it is not certain.

    Reads of `training` are what is asked about, so they are never certain.
    """
    match node:
        case ast.Constant():
            return Known(node.value)
        case ast.Name():
            for names in (frame.f_locals, frame.f_globals, vars(builtins)):
                if node.id in names:
                    return Known(names[node.id])
        case ast.Attribute() if node.attr != "training":
            owner = value_of(node.value, frame)
            if owner is not None and hasattr(owner.value, node.attr):
                return Known(getattr(owner.value, node.attr))
        case ast.Compare(ops=[comparison], comparators=[right_node]):
            left, right = plain_value_of(node.left, frame), plain_value_of(right_node, frame)
            if left is not None and right is not None:
                return _compared(comparison, left.value, right.value)
    return None


def plain_value_of(node: ast.AST, frame: FrameType) -> Known | None:
    """The value of an expression where it is a flag, a number, a string or None."""
    known = value_of(node, frame)
    return known if known is not None and isinstance(known.value, PLAIN) else None


def _compared(comparison: ast.cmpop, left: Any, right: Any) -> Known | None:
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    match comparison:
        case ast.Eq() | ast.NotEq():
            return Known((left == right) == isinstance(comparison, ast.Eq))
        case ast.Is() | ast.IsNot():
            return Known((left is right) == isinstance(comparison, ast.Is))
        case ast.Gt() | ast.LtE() if numbers:
            return Known((left > right) == isinstance(comparison, ast.Gt))
        case ast.Lt() | ast.GtE() if numbers:
            return Known((left < right) == isinstance(comparison, ast.Lt))
    return None
