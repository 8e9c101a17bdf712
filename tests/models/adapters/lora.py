"""A hand-written LoRA: frozen layers, of which the last have an adapter that is trained."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

WIDTH = 8
Batch = dict[str, torch.Tensor]


class Adapted(nn.Module):
    """A frozen layer and, with a rank above 0, a trained product of two small matrices."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.down = nn.Linear(WIDTH, rank, bias=False) if rank else None
        self.up = nn.Linear(rank, WIDTH, bias=False) if rank else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        adapted = self.base(x)
        if self.down is not None and self.up is not None:
            adapted = adapted + self.up(self.down(x))
        return torch.tanh(adapted)


class Model(nn.Module):
    """Six layers between a frozen gate, which all stages use, and a frozen head."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.layers = nn.ModuleList(Adapted(rank) for rank in (0, 0, 0, 2, 2, 2))
        self.head = nn.Linear(WIDTH, 1).requires_grad_(False)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.gate(x))
        for layer in self.layers:
            x = x + gate * layer(x)
        return F.mse_loss(self.head(x).squeeze(1), target)


def build() -> nn.Module:
    return Model()


def inputs(samples: int) -> Batch:
    x = torch.randn(samples, WIDTH)
    return {"x": x, "target": x.sum(1)}


def batches() -> Iterator[Batch]:
    for step in range(8):
        torch.manual_seed(step)
        yield inputs(8)
