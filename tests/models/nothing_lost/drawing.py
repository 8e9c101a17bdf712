"""A model for each kind of random draw, in modules as users write them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS, WIDTH = 8, 16


class DropPath(nn.Module):
    """Leaves out whole samples."""

    def __init__(self, rate: float = 0.3) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        kept = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class Gumbel(nn.Module):
    """Chooses a place of the last dimension."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gumbel_softmax(x, hard=True) if self.training else x.softmax(-1)


class Sampled(nn.Module):
    """Noise as wide as a variational encoder's."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, deviation = self.wide(x).chunk(2, -1)
        if not self.training:
            return mean
        return mean + torch.randn_like(mean) * (0.1 * deviation).exp()


class Recurrent(nn.Module):
    """Dropout between the layers of an LSTM, which is one operator."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, 2, dropout=0.3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.lstm(x)[0]
        return result


def _encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.2, batch_first=True)


KINDS: dict[str, Any] = {
    "alpha_dropout": lambda: nn.AlphaDropout(0.3),
    "drop_path": DropPath,
    "dropout": lambda: nn.Dropout(0.3),
    "dropout1d": lambda: nn.Dropout1d(0.3),
    "encoder": _encoder,
    "gumbel": Gumbel,
    "recurrent": Recurrent,
    "rrelu": nn.RReLU,
    "sampled": Sampled,
}


class Drawing(nn.Module):
    """Layers, behind each of them a draw of one of the kinds."""

    def __init__(self, kinds: list[str]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in kinds)
        self.drawing = nn.ModuleList(KINDS[kind]() for kind in kinds)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        for layer, drawing in zip(self.layers, self.drawing, strict=True):
            x = x + drawing(torch.tanh(layer(x)))
        return F.mse_loss(x, target)


def drawing(kinds: list[str]) -> nn.Module:
    return Drawing(kinds)


def sequences(microbatch: int) -> dict[str, torch.Tensor]:
    return {name: torch.randn(microbatch, CHANNELS, WIDTH) for name in ("x", "target")}
