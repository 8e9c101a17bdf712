"""Arguments of the graph's operators as torch takes them, for one microbatch."""

import math
from typing import Any

import torch

from pipecut.compiler.graph import Literal, Ref, Sym, Value

CPU = torch.device("cpu")
# What an expression of a size may call.
SIZE_NAMES: dict[str, Any] = {"__builtins__": {"min": min, "max": max, "abs": abs}, "math": math}


def size_of(expression: str, microbatch: int) -> int:
    """The number that an expression in `batch` is for one microbatch."""
    return int(eval(expression, SIZE_NAMES, {"batch": microbatch}))


def concrete(
    argument: Any, tensors: dict[str, torch.Tensor], microbatch: int, device: torch.device = CPU
) -> Any:
    """An argument as the operator takes it; `tensors` has what it may refer to."""
    match argument:
        case Ref():
            return tensors[argument.name]
        case Sym():
            return size_of(argument.expression, microbatch)
        case Literal("device"):
            return device
        case Literal():
            return getattr(torch, argument.code.removeprefix("torch."))
        case tuple():
            return [concrete(item, tensors, microbatch, device) for item in argument]
    return argument


def empty_tensor(value: Value) -> torch.Tensor:
    """A tensor with a value's sizes, strides and dtype; a leaf that needs a gradient as it does."""
    dtype = getattr(torch, value.dtype)
    tensor = torch.empty_strided(value.sizes, value.strides, dtype=dtype)
    return tensor.requires_grad_() if value.needs_grad and dtype.is_floating_point else tensor
