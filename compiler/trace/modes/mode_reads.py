"""Whether a model can be anything else in eval mode, found by watching who asks for `training` while it is traced.

A second trace takes as long as the first. It is spared where every read of `training` goes to F.dropout, whose flag is known,
or stands in a choice between equals: `0.1 if self.training else 0.1`, `self.training and self.rate > 0` where the rate is 0.
Any other read, or one whose source is not at hand, may mean anything.
"""

import ast
import builtins
import linecache
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# The tracer itself asks, and makes modules of its own.
TRACER = tuple(
    os.path.join(os.path.dirname(torch.__file__), *parts) + os.sep
    for parts in (("fx",), ("export",), ("_export",), ("_functorch",), ("_dynamo",))
)
PLAIN = (bool, int, float, str, type(None))


@dataclass
class ModeReads:
    """What was seen: reads that go to F.dropout, and whether some may mean anything."""

    dropouts: int = 0
    differs: bool = False


@contextmanager
def watched_mode(model: nn.Module) -> Iterator[ModeReads]:
    """Note every read of a module's `training` meanwhile."""
    seen = ModeReads()
    known = {id(module) for module in model.modules()}
    classes = {
        cls for module in model.modules() for cls in type(module).__mro__ if cls is not nn.Module
    }
    seen.differs = any("training" in vars(cls) or _switches(cls) for cls in classes) or any(
        # TorchScript reads its mode where nobody sees it.
        isinstance(module, torch.jit.ScriptModule) or not {"train", "eval"}.isdisjoint(vars(module))
        for module in model.modules()
    )

    def read(module: nn.Module) -> bool:
        frame = sys._getframe(1)
        # One that forward makes for itself is in training mode always.
        if id(module) in known and not frame.f_code.co_filename.startswith(TRACER):
            _note(frame, seen)
        return bool(module.__dict__["training"])

    def write(module: nn.Module, mode: bool) -> None:
        seen.differs |= id(module) in known and module.__dict__.get("training", mode) != mode
        module.__dict__["training"] = mode

    nn.Module.training = property(read, write)  # type: ignore[assignment]
    try:
        yield seen
    finally:
        del nn.Module.training


def _switches(cls: type) -> bool:
    """Whether a class does something of its own when its mode changes; transformers' own chooses kernels alone."""
    own = not {"train", "eval"}.isdisjoint(vars(cls))
    return own and cls.__module__ != "transformers.modeling_utils"


def _note(frame: FrameType, seen: ModeReads) -> None:
    parents = _parents(frame.f_code, frame.f_lasti)
    if _is_dropout(parents, frame):
        seen.dropouts += 1
    elif not _is_between_equals(parents, frame):
        seen.differs = True


@lru_cache(maxsize=4096)
def _parents(code: CodeType, instruction: int) -> tuple[ast.AST, ...]:
    """The expression that reads `training`, and what it stands in, from the inside; empty where its source is not at hand."""
    line, last, column, end = list(code.co_positions())[instruction // 2]
    return _reads_of(code.co_filename).get((line, last, column, end), ())


@lru_cache(maxsize=64)
def _reads_of(path: str) -> dict[tuple[int | None, ...], tuple[ast.AST, ...]]:
    found: dict[tuple[int | None, ...], tuple[ast.AST, ...]] = {}
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except (SyntaxError, ValueError):
        return found

    def walk(node: ast.AST, above: tuple[ast.AST, ...]) -> None:
        if isinstance(node, ast.Attribute) and node.attr == "training":
            key = (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)
            found[key] = (node, *above)
        for child in ast.iter_child_nodes(node):
            walk(child, (node, *above)[:4])

    walk(tree, ())
    return found


def _is_dropout(parents: tuple[ast.AST, ...], frame: FrameType) -> bool:
    """Whether the value goes to F.dropout as its flag."""
    if len(parents) < 2:
        return False
    flag, above = parents[0], parents[1]
    if (
        isinstance(above, ast.keyword)
        and above.arg == "training"
        and isinstance(parents[2], ast.Call)
    ):
        call = parents[2]
    elif isinstance(above, ast.Call) and len(above.args) > 2 and above.args[2] is flag:
        call = above
    else:
        return False
    known, function = _value(call.func, frame)
    return known and function is F.dropout


def _is_between_equals(parents: tuple[ast.AST, ...], frame: FrameType) -> bool:
    """Whether the code does the same whatever the value is."""
    inner, rest = (parents[0] if parents else None), parents[1:]
    if rest and isinstance(rest[0], ast.UnaryOp) and isinstance(rest[0].op, ast.Not):
        inner, rest = rest[0], rest[1:]
    if not rest:
        return False
    choice = rest[0]
    if isinstance(choice, ast.IfExp) and choice.test is inner:
        (known, one), (also, other) = _plain(choice.body, frame), _plain(choice.orelse, frame)
        return known and also and type(one) is type(other) and one == other
    if isinstance(choice, ast.BoolOp) and len(rest) > 1 and _is_condition(choice, rest[1]):
        others = [_plain(value, frame) for value in choice.values if value is not inner]
        decides = isinstance(choice.op, ast.Or)
        return any(known and bool(value) == decides for known, value in others)
    return False


def _is_condition(node: ast.AST, above: ast.AST) -> bool:
    return isinstance(above, ast.If | ast.While | ast.IfExp) and above.test is node


def _plain(node: ast.AST, frame: FrameType) -> tuple[bool, Any]:
    known, value = _value(node, frame)
    return known and isinstance(value, PLAIN), value


def _value(node: ast.AST, frame: FrameType) -> tuple[bool, Any]:
    """What an expression of names, attributes and comparisons is in a frame, where it is one."""
    if isinstance(node, ast.Constant):
        return True, node.value
    if isinstance(node, ast.Name):
        for names in (frame.f_locals, frame.f_globals, vars(builtins)):
            if node.id in names:
                return True, names[node.id]
    elif isinstance(node, ast.Attribute) and node.attr != "training":
        known, owner = _value(node.value, frame)
        if known and hasattr(owner, node.attr):
            return True, getattr(owner, node.attr)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        (known, left), (also, right) = _plain(node.left, frame), _plain(node.comparators[0], frame)
        if known and also:
            return _compared(node.ops[0], left, right)
    return False, None


def _compared(operator: ast.cmpop, left: Any, right: Any) -> tuple[bool, Any]:
    if isinstance(operator, ast.Eq | ast.NotEq):
        return True, (left == right) == isinstance(operator, ast.Eq)
    if isinstance(operator, ast.Is | ast.IsNot):
        return True, (left is right) == isinstance(operator, ast.Is)
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if numbers and isinstance(operator, ast.Gt | ast.LtE):
        return True, (left > right) == isinstance(operator, ast.Gt)
    if numbers and isinstance(operator, ast.Lt | ast.GtE):
        return True, (left < right) == isinstance(operator, ast.Lt)
    return False, None
