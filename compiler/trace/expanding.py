"""Choices by the batch size that are none for one sample: whether to expand a tensor to its batch.

`if n != x.shape[0]: x = x.expand(n, -1)` leaves out for one sample what makes no difference to it:
a tensor expanded to the shape that it has is of the same memory, sizes and strides.
"""

import ast
import inspect
import linecache
from collections.abc import Callable
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

# A size's value for one sample.
ForOne = Callable[[Any], Any]


def expands_to_its_own_shape(frame: FrameType, for_one: ForOne) -> bool:
    """Whether a frame asks for a condition of which it only expands a tensor to its shape.

    `for_one` gives a size of the batch in which there is one sample. False where the source is not
    at hand.
    """
    code = frame.f_code
    positions = list(code.co_positions())[frame.f_lasti // 2]
    expand = _expands(code).get(positions)
    return expand is not None and _keeps_shape(expand, frame, for_one)


def _keeps_shape(expand: ast.Call, frame: FrameType, for_one: ForOne) -> bool:
    tensor = frame.f_locals.get(_name_of(expand))
    if not isinstance(tensor, torch.Tensor) or not _is_plain(tensor):
        return False
    if len(expand.args) != tensor.dim():
        return False
    for argument, size in zip(expand.args, tensor.shape, strict=True):
        match argument:
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=1)):
                continue
            case ast.Name():
                given = frame.f_locals.get(argument.id)
            case ast.Constant():
                given = argument.value
            case _:
                return False
        if not isinstance(given, int | torch.SymInt) or for_one(given) != for_one(size):
            return False
    return True


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor has nothing that another one of the same memory lacks."""
    return type(tensor) in (torch.Tensor, FakeTensor) and vars(tensor).keys() <= _names_of_fakes()


@lru_cache
def _names_of_fakes() -> frozenset[str]:
    """Attributes of any fake tensor."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        fake = FakeTensorMode().from_tensor(torch.empty(1))
    return frozenset(vars(fake))


@lru_cache(maxsize=64)
def _expands(code: CodeType) -> dict[Any, ast.Call]:
    """By lines and columns of a condition, the call of expand that is all that hangs on it."""
    lines = linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :]
    try:
        # Where it is indented it stands in a block, and keeps its columns.
        block = "if True:\n" if lines[0][:1].isspace() else "\n"
        tree = ast.parse(block + "".join(inspect.getblock(lines)))
    except (SyntaxError, ValueError, IndexError):
        return {}
    before = code.co_firstlineno - 2
    expands = {}
    for node in ast.walk(tree):
        match node:
            case ast.If(
                test=ast.Compare() as test,
                body=[ast.Assign(targets=[ast.Name() as target], value=ast.Call() as call)],
                orelse=[],
            ) if _name_of(call) == target.id and not call.keywords:
                assert test.end_lineno is not None
                first, last = test.lineno + before, test.end_lineno + before
                expands[first, last, test.col_offset, test.end_col_offset] = call
    return expands


def _name_of(call: ast.Call) -> str:
    """The variable whose `expand` is called; "" for any other call."""
    match call.func:
        case ast.Attribute(value=ast.Name(id=name), attr="expand"):
            return name
    return ""
