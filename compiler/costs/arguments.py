"""Arguments of the graph's operators as torch takes them, for one microbatch."""

import ast
import math
from typing import Any

import torch

from pipecut.compiler.graph import Literal, Ref, SizeOf, Sym, TupleOf, Value
from pipecut.plan.schema import Sizes

CPU = torch.device("cpu")
# What a sequence is given as that is no list.
_KINDS: dict[type, type] = {TupleOf: tuple, SizeOf: torch.Size}
# What an expression of a size may call.
SIZE_NAMES: dict[str, Any] = {"__builtins__": {"min": min, "max": max, "abs": abs}, "math": math}


def size_of(expression: str, sizes: Sizes) -> int:
    """The number that an expression is for a microbatch of such sizes."""
    return int(eval(expression, SIZE_NAMES, dict(sizes)))


def concrete(
    argument: Any, tensors: dict[str, torch.Tensor], sizes: Sizes, device: torch.device = CPU
) -> Any:
    """An argument as the operator takes it; `tensors` has what it may refer to."""
    match argument:
        case Ref():
            return tensors[argument.name]
        case Sym():
            return size_of(argument.expression, sizes)
        case Literal("device"):
            return device
        case Literal() if argument.code.startswith("torch."):
            return getattr(torch, argument.code.removeprefix("torch."))
        case Literal():
            return ast.literal_eval(argument.code)
        case tuple():
            items = [concrete(item, tensors, sizes, device) for item in argument]
            return _KINDS.get(type(argument), list)(items)
    return argument


def empty_tensor(value: Value) -> torch.Tensor:
    """A tensor with a value's sizes, strides and dtype; a leaf that needs a gradient as it does."""
    dtype = getattr(torch, value.dtype)
    tensor = torch.empty_strided(value.sizes, value.strides, dtype=dtype)
    return tensor.requires_grad_() if value.needs_grad and dtype.is_floating_point else tensor
