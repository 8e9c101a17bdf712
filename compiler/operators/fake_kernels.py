"""Sizes of results that torch's fake tensors do not tell: those of CTC loss.

Its second result, which only its backward reads, is as long as the longest target. Here it is as
long as a target may be.
"""

from typing import Any

import torch
from torch._subclasses.fake_impls import register_op_impl

_ATEN: Any = torch.ops.aten


@register_op_impl(_ATEN._ctc_loss.Tensor)
def _ctc_loss(
    mode: Any, func: Any, log_probs: torch.Tensor, targets: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """`log_probs` are [time, batch, classes]; `targets` are [batch, length] or all in a row."""
    with mode:
        time, batch, _classes = log_probs.shape
        return log_probs.new_empty(batch), log_probs.new_empty(
            batch, time, 2 * targets.shape[-1] + 1
        )


@register_op_impl(_ATEN._ctc_loss_backward.Tensor)
def _ctc_loss_backward(
    mode: Any, func: Any, gradient: torch.Tensor, log_probs: torch.Tensor, *_: Any, **__: Any
) -> torch.Tensor:
    with mode:
        return torch.empty_like(log_probs, memory_format=torch.contiguous_format)
