"""Models and data that changed after the compile, or that differ between ranks."""

import os
from collections.abc import Iterator

import torch
from torch import nn

from tests.models.core import vectors

# What a test changes of the model after it was compiled: rename, shape, dtype, freeze, tie, fewer.
CHANGE = "PIPECUT_TEST_CHANGE"


class Layers(nn.Module):
    """Two linear layers and a loss."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.first = nn.Linear(32, 48 if change == "shape" else 32)
        self.register_module(
            "other" if change == "rename" else "second", nn.Linear(self.first.out_features, 32)
        )
        self.last = nn.Linear(32, 32, dtype=torch.float64 if change == "dtype" else torch.float32)
        if change == "tie":
            self.last.weight = next(
                module for name, module in self.named_children() if name == "second"
            ).weight
        self.last.bias.requires_grad_(change != "freeze")
        if change == "more":
            self.extra = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        _, first, second, last, *_ = self.modules()
        return nn.functional.mse_loss(last(torch.relu(second(torch.relu(first(x))))), target)


def changing() -> nn.Module:
    """The compiled model, or the change that the environment names."""
    return Layers(os.environ.get(CHANGE, ""))


def frozen_end() -> nn.Module:
    """The last layers are not trained, so that a whole stage is frozen."""
    model = nn.ModuleList([nn.Linear(32, 32) for _ in range(6)])
    for layer in list(model)[3:]:
        layer.requires_grad_(False)

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model

        def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = torch.relu(layer(x))
            return nn.functional.mse_loss(x, target)

    return Chain()


class Wide(nn.Module):
    """Six layers of 64 MiB each."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(32, 4096)
        self.layers = nn.ModuleList(nn.Linear(4096, 4096) for _ in range(6))
        self.leave = nn.Linear(4096, 32)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return nn.functional.mse_loss(self.leave(x), target)


def wide() -> nn.Module:
    """A model whose parameters weigh more than the rest of a process."""
    return Wide()


def one_less_on_rank_1() -> Iterator[dict[str, torch.Tensor]]:
    """Five batches; on rank 1 the first four."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(5 - int(os.environ.get("RANK", "0"))):
        yield {name: torch.rand(t.shape, generator=generator) for name, t in vectors(8).items()}


def longer_on_rank_1() -> list[dict[str, torch.Tensor]]:
    """Five batches, six on rank 1."""
    return [vectors(8) for _ in range(5 + int(os.environ.get("RANK", "0")))]
