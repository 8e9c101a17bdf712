"""Which kernel torch's attention takes on a kind of device.

The rules are those of torch's sdp_utils.cpp (aten/src/ATen/native/transformers/cuda) and
sdp_utils_cpp.cpp: on CUDA flash, then memory-efficient attention, then plain operators, here called
math. cuDNN's kernel, which Hopper prefers, allocates as flash does. Where releases of torch differ,
the kernel that takes more memory is assumed.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from pipecut.device.types import type_of

Kernel = Literal["flash", "efficient", "math"]
HALF = (torch.float16, torch.bfloat16)
# The largest head that flash attention takes.
WIDEST = 256


@dataclass(frozen=True)
class Attention:
    """A call of scaled_dot_product_attention: its tensors and what decides which kernel runs."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None = None
    dropout: float = 0.0
    causal: bool = False

    @staticmethod
    def of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Attention":
        """From the arguments as torch takes them."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        arguments = dict(zip(names, args, strict=False)) | kwargs
        return Attention(
            arguments["query"],
            arguments["key"],
            arguments["value"],
            arguments.get("attn_mask"),
            arguments.get("dropout_p", 0.0),
            arguments.get("is_causal", False),
        )

    @property
    def product(self) -> float:
        """FLOPs of one of the products: 2 B H L S D."""
        width = (self.query.shape[-1] + self.value.shape[-1]) / 2
        return 2.0 * self.query[..., 0].numel() * self.key.shape[-2] * width


def kernel_of(call: Attention, device_type: str) -> Kernel:
    """Of a call on a CPU, or on a CUDA device of compute capability 8.0 and later."""
    tensors = (call.query, call.key, call.value)
    if any(t.dim() != 4 or t.dtype != call.query.dtype or 0 in t.shape for t in tensors):
        return "math"
    width, half = call.query.shape[-1], call.query.dtype in HALF
    same_width = width == call.key.shape[-1] == call.value.shape[-1]
    square = call.query.shape[-2] == call.key.shape[-2]
    if not type_of(device_type).fused_kernels:
        learnt_mask = call.mask is not None and call.mask.requires_grad
        return "flash" if same_width and not call.dropout and not learnt_mask else "math"
    if (
        half
        and call.mask is None
        and same_width
        and width <= WIDEST
        and (square or not call.causal)
    ):
        return "flash"
    aligned = all(t.shape[-1] % (8 if half else 4) == 0 for t in tensors)
    # Heads that share keys and values: only flash takes them.
    grouped = call.query.shape[1] != call.key.shape[1]
    floating = half or call.query.dtype == torch.float32
    return (
        "efficient"
        if floating and aligned and not grouped and width == call.key.shape[-1]
        else "math"
    )
