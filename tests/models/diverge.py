"""A model whose loss is finite where its gradients are not."""

from collections.abc import Iterator

import torch
from torch import nn


class Root(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8, bias=False), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        loss: torch.Tensor = self.last(torch.sqrt(hidden * hidden)).pow(2).mean()
        return loss


def root() -> nn.Module:
    return Root()


def rows(microbatch: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(microbatch, 8)}


def zeros_at_the_end() -> Iterator[dict[str, torch.Tensor]]:
    yield from (rows(8), rows(8), {"x": torch.zeros(8, 8)})
