"""The optimizers a job file may name."""

from collections.abc import Iterable

import torch
from torch import nn


def make_optimizer(name: str, parameters: Iterable[nn.Parameter], rate: float, eps: float = 1e-8) -> torch.optim.Optimizer:
    """An optimizer of torch.optim with its defaults."""
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=rate)
    if name == "momentum":
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9)
    return (torch.optim.AdamW if name == "adamw" else torch.optim.Adam)(parameters, lr=rate, eps=eps)
