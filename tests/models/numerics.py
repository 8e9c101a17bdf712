"""Models that draw random numbers in many ways."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

WIDTH = 32


def vectors(microbatch: int) -> dict[str, torch.Tensor]:
    return {name: torch.randn(microbatch, WIDTH) for name in ("x", "target")}


def sequences(microbatch: int) -> dict[str, torch.Tensor]:
    return {name: torch.randn(microbatch, 6, WIDTH) for name in ("x", "target")}


class Encoder(nn.Module):
    """nn.TransformerEncoder with its dropout, each layer recomputed in backward."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.2, batch_first=True)
            for _ in range(3)
        )
        self.attention = nn.MultiheadAttention(WIDTH, 4, dropout=0.3, batch_first=True)
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            if self.reentrant is None:
                x = layer(x)
            else:
                x = checkpoint(layer, x, use_reentrant=self.reentrant)
        x = x + self.attention(x, x, x)[0]
        return F.mse_loss(self.head(F.dropout(x, 0.1, self.training)), target)


def encoder(reentrant: bool | None = None) -> nn.Module:
    return Encoder(reentrant)


class Noisy(nn.Module):
    """A layer per kind of noise, the `kinds` in turn."""

    def __init__(self, kinds: list[str] | None = None) -> None:
        super().__init__()
        self.kinds = kinds or sorted(KINDS)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in self.kinds)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            x = x + KINDS[kind](torch.tanh(layer(x)))
        return F.mse_loss(x, target)


def _drop_path(x: torch.Tensor) -> torch.Tensor:
    return x * x.new_empty(x.shape[0], 1).bernoulli_(0.8) / 0.8


def _unused(x: torch.Tensor) -> torch.Tensor:
    torch.rand_like(x)
    return x


KINDS: dict[str, Any] = {
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.2, True),
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.7)),
    "drop_path": _drop_path,
    "dropout": lambda x: F.dropout(x, 0.3),
    "dropout_in_place": lambda x: F.dropout(x * 1.0, 0.3, inplace=True),
    "exponential": lambda x: x * torch.empty_like(x).exponential_(2.0),
    "feature_dropout": lambda x: F.dropout1d(x[:, :, None], 0.3)[:, :, 0],
    "gumbel": lambda x: F.gumbel_softmax(x),
    "normal": lambda x: torch.normal(x, 0.1),
    "rand": lambda x: x * torch.rand(x.shape[0], 1),
    "rand_like": lambda x: x + torch.rand_like(x),
    "randint": lambda x: x * torch.randint(3, (x.shape[0], 1)),
    "randn": lambda x: x + torch.randn(WIDTH),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "unused": _unused,
    "without_gradient": lambda x: x + torch.no_grad()(F.dropout)(x.detach(), 0.5),
}


def noisy(kinds: list[str] | None = None) -> nn.Module:
    return Noisy(kinds)


class Recurrent(nn.Module):
    """Dropout between the layers of an LSTM, which is one operator."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.lstm, self.last = (
            nn.Linear(WIDTH, WIDTH),
            nn.LSTM(WIDTH, WIDTH, 3, dropout=0.3),
            nn.Linear(WIDTH, WIDTH),
        )

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        x = F.dropout(self.first(x), 0.2)
        x = self.lstm(x.transpose(0, 1))[0].transpose(0, 1)
        return F.mse_loss(self.last(F.dropout(x, 0.1)), target)


def recurrent() -> nn.Module:
    return Recurrent()


class Plain(nn.Module):
    """Two products, and a constant of the default dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x)) * torch.full((WIDTH,), 0.5)
        return F.mse_loss(self.last(x.to(target.dtype)), target)


def plain() -> nn.Module:
    return Plain()
