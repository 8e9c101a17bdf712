"""Models that are given one tensor under two names, and what they may do with that."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 8


class Twice(nn.Module):
    """Reads both names; `of` says what else it does."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self.of = of
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """The loss."""
        if self.of == "write":
            x.mul_(2)
        hidden = torch.tanh(self.first(x))
        if self.of == "identity" and x is target:
            hidden = hidden * 2
        return F.mse_loss(self.second(hidden), target)


def twice(of: str) -> nn.Module:
    """Reads both names, and does what `of` says."""
    return Twice(of)


def same(samples: int) -> dict[str, Any]:
    """One tensor as `x` and as `target`."""
    x = torch.randn(samples, WIDTH)
    return {"x": x, "target": x}
