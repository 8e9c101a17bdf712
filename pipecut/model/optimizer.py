"""The optimizers a job file may name."""

from collections.abc import Iterable

import torch
from torch import nn

from pipecut.device.types import type_of


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], rate: float, eps: float = 1e-8
) -> torch.optim.Optimizer:
    """An optimizer of torch.optim with its defaults; on a GPU its fused form.

    The fused form is one kernel over all parameters, with the step count on the device, so that the
    host waits for nothing. The default there works on lists of tensors, and allocates copies of
    them as large as the gradients.
    """
    stepped = list(parameters)
    fused = True if stepped and all(map(fusible, stepped)) else None
    if name == "sgd":
        return torch.optim.SGD(stepped, lr=rate, fused=fused)
    if name == "momentum":
        return torch.optim.SGD(stepped, lr=rate, momentum=0.9, fused=fused)
    adam = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return adam(stepped, lr=rate, eps=eps, fused=fused)


def fusible(parameter: torch.Tensor) -> bool:
    """Whether torch's fused optimizers take a parameter, and step it as the others do."""
    return type_of(parameter.device).fused_optimizers and parameter.is_floating_point()
