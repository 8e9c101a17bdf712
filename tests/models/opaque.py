"""A model whose experts choose their tokens by nonzero, which no graph can hold."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, VOCABULARY, LENGTH = 16, 20, 6


class Experts(nn.Module):
    """Each token goes to its best expert; how many an expert gets depends on data."""

    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, experts)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(experts))
        self.drop = nn.Dropout(0.2)
        self.register_buffer("counts", torch.zeros(experts))

    def forward(self, x: torch.Tensor, scale: Any = None, *, like: Any = ()) -> Any:
        """The result, and how many tokens each expert got."""
        rows = x.reshape(-1, WIDTH)
        weights, chosen = self.gate(rows).softmax(-1).max(-1)
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            mine = (chosen == number).nonzero().squeeze(1)
            if len(mine):
                out.index_add_(0, mine, self.drop(expert(rows[mine])) * weights[mine, None])
        counts = torch.bincount(chosen, minlength=len(self.experts))
        if self.training:
            self.counts += counts
        return {"hidden": out.view_as(x), "counts": counts, "names": ("a", None)}


class Block(nn.Module):
    """Its experts are opaque."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.drop, self.moe = nn.Dropout(0.1), Experts()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A result like x."""
        x = x + self.drop(torch.relu(self.linear(x)))
        normed = self.norm(x)
        found = self.moe(normed, None, like=(normed, {"k": 2}))
        return x + found["hidden"] * found["counts"].float().mean()


class Mixture(nn.Module):
    """Tokens to a loss."""

    def __init__(self, layers: int, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(layers))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embed.weight
            self.layers[0].moe.experts[0].weight = self.layers[-1].moe.experts[0].weight

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss, and what is behind it."""
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        logits = self.head(x)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


def mixture(layers: int = 3, tied: bool = False) -> nn.Module:
    """A mixture of experts."""
    return Mixture(layers, tied)


def tokens(samples: int) -> dict[str, torch.Tensor]:
    """Tokens and labels."""
    ids = torch.randint(0, VOCABULARY, (samples, LENGTH))
    return {"ids": ids, "labels": ids.roll(1, 1)}


class Chosen(nn.Module):
    """As many rows as are positive."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rows of x."""
        return x[x.sum(-1) > 0]


class Choosing(nn.Module):
    """Its opaque module returns what no stage can count."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.chosen = nn.Linear(4, 4), Chosen()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A loss."""
        return self.chosen(self.linear(x)).square().mean()


def choosing() -> nn.Module:
    """A model that is refused."""
    return Choosing()


def rows(samples: int) -> dict[str, torch.Tensor]:
    """Rows of numbers."""
    return {"x": torch.linspace(-1, 1, 4 * samples).sin().view(samples, 4)}
