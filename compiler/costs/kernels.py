"""What a CUDA device's kernels allocate, on fake CPU tensors.

A build of torch without CUDA has no fake CUDA tensors that autograd takes, and the CPU's kernels
keep other things for backward: the whole matrix of scores where a mask is learnt, a dropout mask as
wide as what it is applied to. So what differs is replaced by functions that allocate and keep what
the CUDA kernel does, and compute nothing.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pipecut.compiler.costs.attention import HALF, Attention, kernel_of
from pipecut.compiler.operators.lookup import ATEN, resolve
from pipecut.compiler.operators.table import RULES
from pipecut.device.types import type_of

# By function, what its CUDA kernel keeps.
_KEEPS = {
    function: rule.cuda_keeps
    for name, rule in RULES.items()
    if rule.cuda_keeps != "as cpu"
    for function in (*rule.functions, resolve(f"{ATEN}.{name}.default"))
}
# A row of a mask is padded to a multiple of so many elements, and a row of sums likewise.
_MASK_ALIGNMENT, _ROW_ALIGNMENT = 8, 32


class Kernels(TorchFunctionMode):
    """While it is entered, calls allocate as on a type of device; on a CPU they already do."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type, self.fused = device_type, type_of(device_type).fused_kernels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace attention and dropout."""
        kwargs = kwargs or {}
        keeps = _KEEPS.get(func, "as cpu") if self.fused else "as cpu"
        match keeps:
            case "fused attention":
                return _attention(func, args, kwargs, self.device_type)
            case "boolean mask":
                return _dropout(func, args, kwargs)
            case _:
                return func(*args, **kwargs)


def _dropout(func: Any, args: Any, kwargs: Any) -> Any:
    """A boolean mask is kept, not one of the tensor's own type."""
    names = ("input", "p", "training" if func is F.dropout else "train", "inplace")
    arguments = dict(zip(names, args, strict=False)) | kwargs
    chance = arguments.get("p", 0.5)
    trains = arguments.get("training", arguments.get("train", True))
    if not trains or not 0.0 < chance < 1.0 or arguments.get("inplace", False):
        return func(*args, **kwargs)
    return torch.native_dropout(arguments["input"], chance, True)[0]


def _attention(func: Any, args: Any, kwargs: Any, device_type: str) -> Any:
    call = Attention.of(args, kwargs)
    kernel = kernel_of(call, device_type)
    if kernel == "math":
        with sdpa_kernel(SDPBackend.MATH):
            return func(*args, **kwargs)
    mask = call.mask
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=call.query.dtype)
        if mask.shape[-1] % _MASK_ALIGNMENT:
            width = mask.shape[-1]
            mask = F.pad(mask, (0, _MASK_ALIGNMENT - width % _MASK_ALIGNMENT))[..., :width]
        mask = mask.expand(*call.query.shape[:-1], call.key.shape[-2])
    fused: Any = _Fused.apply
    return fused(call.query, call.key, call.value, mask)


class _Fused(torch.autograd.Function):
    """Flash or memory-efficient attention: keeps its inputs, its result and a float32 per row."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any
    ) -> torch.Tensor:
        """The result is laid out sample, row, head."""
        batch, heads, rows, _ = query.shape
        result = query.new_empty(batch, rows, heads, value.shape[-1]).transpose(1, 2)
        padded_rows = -(-rows // _ROW_ALIGNMENT) * _ROW_ALIGNMENT
        row_sums = query.new_empty(batch, heads, padded_rows, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, result, row_sums)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Beside the gradients, it allocates scratch memory.

        That is float32 sums for the query's gradient and, where heads share keys and values, the
        gradients of each head's own.
        """
        query, key, value, mask, result, row_sums = ctx.saved_tensors
        scratch = [torch.empty_like(row_sums)]
        if query.dtype in HALF:
            scratch.append(torch.empty_like(query, dtype=torch.float32))
        else:
            scratch.append(torch.empty_like(result))
        if key.shape[1] != query.shape[1]:
            scratch += [query.new_empty(*query.shape[:2], *t.shape[2:]) for t in (key, value)]
        input_gradients = [torch.empty_like(t) for t in (query, key, value)]
        learnt_mask = mask is not None and ctx.needs_input_grad[3]
        return (*input_gradients, mask.new_empty(mask.shape) if learnt_mask else None)
