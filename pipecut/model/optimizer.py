"""The optimizers a job file may name."""

from collections.abc import Iterable

import torch
from torch import nn

from pipecut.device.types import type_of


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], rate: float, eps: float = 1e-8
) -> torch.optim.Optimizer:
    """An optimizer of torch.optim with its defaults; on a GPU its fused form.

    The fused form is one kernel over all parameters, with the step count on the device, so that the host waits for nothing;
    the default there works on lists of tensors and allocates copies of them as large as the gradients.
    """
    own = list(parameters)
    fused = True if own and all(fusible(parameter) for parameter in own) else None
    if name == "sgd":
        return torch.optim.SGD(own, lr=rate, fused=fused)
    if name == "momentum":
        return torch.optim.SGD(own, lr=rate, momentum=0.9, fused=fused)
    return (torch.optim.AdamW if name == "adamw" else torch.optim.Adam)(
        own, lr=rate, eps=eps, fused=fused
    )


def fusible(parameter: torch.Tensor) -> bool:
    """Whether torch's fused optimizers take a parameter. On a CPU they are not used: they round otherwise there."""
    return type_of(parameter.device).fused_optimizers and parameter.is_floating_point()
