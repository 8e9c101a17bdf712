"""A model that counts with its batch size in every way."""

import torch
from torch import nn


class SizeOverrides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, width = x.shape
        hidden = self.layer(x)
        loss = hidden.square().sum() / (batch * width)
        loss = (
            loss + hidden.sum() / x.numel() - hidden.mean() / (2 * batch) + hidden.sum() / batch**2
        )
        loss = (
            loss
            + (hidden * min(batch, 4)).mean()
            - (hidden * max(batch, 4)).mean() * abs(batch - 4)
        )
        return (
            loss
            - hidden.abs().sum() / (batch + 1)
            + (hidden.mean() > (batch - 2)).float() % (3 * batch)
        )


def sizes() -> nn.Module:
    return SizeOverrides()


def rows(microbatch: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(microbatch, 8)}
