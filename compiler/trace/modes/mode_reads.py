"""Whether a model can be anything else in eval mode, seen from who reads `training` in a trace.

A second trace takes as long as the first. It is spared where every read of `training` goes to
F.dropout, whose flag is known, or stands in a choice between equals: `0.1 if self.training else
0.1`, `self.training and self.rate > 0` where the rate is 0. Any other read, or one whose source is
not at hand, may mean anything.
"""

import ast
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

from pipecut.compiler.trace.modes.source_values import plain_value_of, value_of

# The tracer itself asks, and makes modules of its own.
TRACER = tuple(
    os.path.join(os.path.dirname(torch.__file__), *parts) + os.sep
    for parts in (("fx",), ("export",), ("_export",), ("_functorch",), ("_dynamo",))
)
# How many nodes around a read of `training` are looked at: keyword, call, `not`, choice.
DEPTH = 4


@dataclass
class ModeReads:
    """Reads of `training` in a trace: how many go to F.dropout, and whether others may matter."""

    dropouts: int = 0
    differs: bool = False


@contextmanager
def watched_mode(model: nn.Module) -> Iterator[ModeReads]:
    """Note every read of a module's `training` meanwhile."""
    reads = ModeReads()
    # By identity: a user's class may compare as it likes.
    modules = {id(module) for module in model.modules()}
    classes = {
        cls for module in model.modules() for cls in type(module).__mro__ if cls is not nn.Module
    }
    reads.differs = any("training" in vars(cls) or _switches(cls) for cls in classes) or any(
        # TorchScript reads its mode where nobody sees it.
        isinstance(module, torch.jit.ScriptModule) or not {"train", "eval"}.isdisjoint(vars(module))
        for module in model.modules()
    )

    def read(module: nn.Module) -> bool:
        frame = sys._getframe(1)
        # A module that forward makes for itself is always in training mode.
        if id(module) in modules and not frame.f_code.co_filename.startswith(TRACER):
            _note(frame, reads)
        return bool(module.__dict__["training"])

    def write(module: nn.Module, mode: bool) -> None:
        reads.differs |= id(module) in modules and module.__dict__.get("training", mode) != mode
        module.__dict__["training"] = mode

    nn.Module.training = property(read, write)  # type: ignore[assignment]
    try:
        yield reads
    finally:
        del nn.Module.training


def _switches(cls: type) -> bool:
    """Whether a class does something of its own when its mode changes.

    What transformers does then only chooses kernels.
    """
    overrides = not {"train", "eval"}.isdisjoint(vars(cls))
    return overrides and cls.__module__ != "transformers.modeling_utils"


def _note(frame: FrameType, reads: ModeReads) -> None:
    parents = _parents(frame.f_code, frame.f_lasti)
    if _is_dropout(parents, frame):
        reads.dropouts += 1
    elif not _is_between_equals(parents, frame):
        reads.differs = True


@lru_cache(maxsize=4096)
def _parents(code: CodeType, instruction: int) -> tuple[ast.AST, ...]:
    """The expression that reads `training`, and what it stands in, from the inside outwards.

    Empty where its source is not at hand.
    """
    line, last, column, end = list(code.co_positions())[instruction // 2]
    return _reads_of(code.co_filename).get((line, last, column, end), ())


@lru_cache(maxsize=64)
def _reads_of(path: str) -> dict[tuple[int | None, ...], tuple[ast.AST, ...]]:
    """Reads of `training` in a file: lines and columns from and to, to the nodes around."""
    reads: dict[tuple[int | None, ...], tuple[ast.AST, ...]] = {}
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except (SyntaxError, ValueError):
        return reads

    def walk(node: ast.AST, above: tuple[ast.AST, ...]) -> None:
        if isinstance(node, ast.Attribute) and node.attr == "training":
            key = (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)
            reads[key] = (node, *above)
        for child in ast.iter_child_nodes(node):
            walk(child, (node, *above)[:DEPTH])

    walk(tree, ())
    return reads


def _is_dropout(parents: tuple[ast.AST, ...], frame: FrameType) -> bool:
    """Whether the value goes to F.dropout as its flag."""
    match parents:
        case (_, ast.keyword(arg="training"), ast.Call() as call, *_):
            pass
        case (flag, ast.Call(args=[_, _, third, *_]) as call, *_) if third is flag:
            pass
        case _:
            return False
    function = value_of(call.func, frame)
    return function is not None and function.value is F.dropout


def _is_between_equals(parents: tuple[ast.AST, ...], frame: FrameType) -> bool:
    """Whether the code does the same whatever the value is."""
    match parents:
        case (_, ast.UnaryOp(op=ast.Not()) as inner, *rest):
            pass
        case (inner, *rest):
            pass
        case _:
            return False
    match rest:
        case [ast.IfExp(test=test) as choice, *_] if test is inner:
            first = plain_value_of(choice.body, frame)
            second = plain_value_of(choice.orelse, frame)
            return first is not None and second is not None and _same(first.value, second.value)
        case [ast.BoolOp() as condition, above, *_] if _is_condition(condition, above):
            operands = [value for value in condition.values if value is not inner]
            values = [plain_value_of(operand, frame) for operand in operands]
            decisive = isinstance(condition.op, ast.Or)
            return any(known is not None and bool(known.value) == decisive for known in values)
    return False


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(value == other)


def _is_condition(node: ast.AST, above: ast.AST) -> bool:
    return isinstance(above, ast.If | ast.While | ast.IfExp) and above.test is node
