"""Tensors of a run as verify compares them: named `KIND/NAME`, copied."""

from typing import Any

import torch

Tensors = dict[str, torch.Tensor]


def kept(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy on the CPU."""
    return tensor.detach().cpu().contiguous().clone()


def on_device(batch: dict[str, Any], device: str) -> dict[str, Any]:
    """A batch with its tensors on a device, and its constants as they are."""
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }
