"""Models with values that depend on no input and that every layer uses: biases, tables, zeros."""

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, ROWS = 16, 12


class Layer(nn.Module):
    """Attention with a bias on its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, bias: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        mixed = self.mix(x) * table
        return x + self.out(torch.softmax(mixed @ x.transpose(1, 2) + bias, dim=-1) @ x)


class Biased(nn.Module):
    """A learnt bias of distances, a table of cosines, and zeros as large as the batch.

    Each is computed once and used by every layer.
    """

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.near = nn.Embedding(2 * ROWS, 1)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("frequencies", torch.arange(WIDTH) / WIDTH)
        self.register_buffer("seen", torch.zeros(()))
        self.layers = nn.ModuleList(Layer() for _ in range(depth))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss. `seen` is written: it must be counted once."""
        self.seen.add_(1.0)
        place = torch.arange(ROWS, device=x.device)
        distance = place[:, None] - place[None, :] + ROWS
        # Written in place while it is made.
        distance.clamp_(min=1)
        bias = self.near(distance).squeeze(-1) * self.scale
        table = torch.cos(place[:, None] * self.frequencies)
        zeros = torch.zeros(x.shape[0], 1, WIDTH, device=x.device)
        for layer in self.layers:
            x = layer(x + zeros, bias, table)
        return F.mse_loss(x, target)


def biased() -> nn.Module:
    """Four layers."""
    return Biased()


def rows(microbatch: int) -> dict[str, torch.Tensor]:
    """Random rows and targets."""
    return {
        "x": torch.randn(microbatch, ROWS, WIDTH),
        "target": torch.randn(microbatch, ROWS, WIDTH),
    }


class Noisy(nn.Module):
    """Noise and a product of large weights that every layer uses: neither may be computed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (
            nn.Parameter(torch.randn(64, 256)),
            nn.Parameter(torch.randn(256, 64)),
        )
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        noise = torch.rand(WIDTH, device=x.device)
        product = (self.left @ self.right)[0, 0]
        for layer in self.layers:
            x = torch.tanh(layer(x + noise)) * product
        return F.mse_loss(x, target)


def noisy() -> nn.Module:
    """Four layers."""
    return Noisy()
