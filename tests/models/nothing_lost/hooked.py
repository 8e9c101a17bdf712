"""A model whose parameters have gradient hooks, each a function of the gradient."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, HIGHEST = 16, 1e-3


def clamped(gradient: torch.Tensor) -> torch.Tensor:
    """No sum of gradients: so it matters for which microbatch it is called."""
    return gradient.clamp(-HIGHEST, HIGHEST)


def scaled(gradient: torch.Tensor, by: float) -> torch.Tensor:
    return torch.nan_to_num(gradient * by)


class Hooked(nn.Module):
    """Linear layers, hooks for the weights of two and the bias of one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.drop = nn.Dropout(0.1)
        self.layers[0].weight.register_hook(clamped)
        self.layers[3].weight.register_hook(functools.partial(scaled, by=3.0))
        self.layers[3].weight.register_hook(lambda gradient: gradient.sign())
        self.layers[3].bias.register_hook(clamped)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + self.drop(torch.tanh(layer(x)))
        return F.mse_loss(x, target)


def hooked() -> nn.Module:
    return Hooked()


def rows(microbatch: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(microbatch, WIDTH), "target": torch.randn(microbatch, WIDTH)}
