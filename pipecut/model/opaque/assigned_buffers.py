"""Buffers that a module's forward assigns, `self.mean = ...`: the tensors that they were keep on.

Stages, checkpoints and optimizers hold a module's buffers by their tensors. So what is assigned is
written into the tensor that was there before, which is put back.
"""

from collections.abc import Mapping

import torch
from torch import nn


def buffers_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's buffers by name, those with several names under each."""
    return dict(module.named_buffers(remove_duplicate=False))


def keep_in_place(module: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
    """Write into buffers what a forward assigned to them; `before` has them as it found them.

    What has another shape, dtype or device than its buffer is left as it is.
    """
    now = buffers_of(module)
    # All copied before any is written: one buffer may be assigned what another one holds.
    assigned = {
        place: now[place].detach().clone()
        for place, buffer in before.items()
        if place in now and now[place] is not buffer and _fits(now[place], buffer)
    }
    with torch.no_grad():
        for place, value in assigned.items():
            path, _, name = place.rpartition(".")
            module.get_submodule(path)._buffers[name] = before[place].copy_(value)


def _fits(value: torch.Tensor, buffer: torch.Tensor) -> bool:
    alike = value.shape == buffer.shape and value.dtype == buffer.dtype
    return alike and value.device == buffer.device
