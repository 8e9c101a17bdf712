"""Models that choose what to do by a tensor's value, and their batches."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 6


class Choosing(nn.Module):
    """Three layers. `where` says which of its choices the model makes."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, CLASSES)
        self.register_buffer("groups", torch.tensor(4))
        self.register_buffer("table", torch.tensor([2, 6]), persistent=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.where == "raises" and labels.max() >= CLASSES:
            raise ValueError("a label is too large")
        if self.where == "asserts":
            torch._assert_async((labels < CLASSES).all(), "labels are classes")
        for layer in self.layers:
            x = torch.tanh(layer(x))
            if self.where == "clamps" and not torch.isfinite(x).all():
                x = torch.nan_to_num(x)
        if self.where == "padding" and (labels == -100).any():
            x = x * (labels != -100).float()[:, None]
        if self.where == "number" and labels.max().item() > 3:
            x = x * 2
        if self.where == "buffer":
            x = x.view(-1, int(self.groups), 2).flatten(1)
        if self.where == "constant":
            x = torch.cat(x.split(self.table.tolist(), 1), 1)
        if self.where == "written":
            self.calls.add_(1)
            x = x * int(self.calls)
        if self.where == "activation" and x.sum() > 0:
            x = x * 2
        return F.cross_entropy(self.head(x), labels)


def asserted(x: Any) -> None:
    """As it stands: pytest writes the assertions of tests anew."""
    assert x.item(), "x"


def asserted_not(x: Any) -> None:
    """Likewise, the other way round."""
    assert not x.item()


def choosing(where: str) -> Choosing:
    """A model with one kind of choice."""
    torch.manual_seed(0)
    return Choosing(where)


def labelled(samples: int) -> dict[str, torch.Tensor]:
    """Vectors and labels, every other one of which is 5 or 4."""
    generator = torch.Generator().manual_seed(samples)
    count = torch.arange(samples)
    labels = torch.where(count % 2 == 0, 5 - count // 2 % 2, count // 2 % 4)
    return {"x": torch.randn(samples, 8, generator=generator), "labels": labels}
