"""Equal layers, whose step is nothing but matrix products.

Run as a module: the step in one process of two threads.

python -m benchmarks.steps.engine_model ROWS MICROBATCHES ROUNDS prints median seconds.
"""

import statistics
import sys
import time

import torch
from torch import nn

WIDTH, LAYERS = 512, 12


class Layers(nn.Module):
    """Linear layers and a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The mean squared error."""
        for layer in self.layers:
            x = torch.relu(layer(x))
        return (x - target).pow(2).mean()


def build(rows: int) -> nn.Module:
    """The model; a sample is a row."""
    return Layers()


def inputs(microbatch: int) -> dict[str, torch.Tensor]:
    """Rows of random numbers."""
    return {"x": torch.randn(microbatch, WIDTH), "target": torch.randn(microbatch, WIDTH)}


def main() -> None:
    """Gradient accumulation over the same microbatches, unsplit."""
    rows, microbatches, rounds = map(int, sys.argv[1:])
    torch.set_num_threads(2)
    model, batch = Layers(), inputs(rows * microbatches)
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for x, target in zip(*(tensor.split(rows) for tensor in batch.values()), strict=True):
            (model(x, target) / microbatches).backward()
        times.append(time.perf_counter() - begin)
        model.zero_grad()
    print(statistics.median(times[2:]))


if __name__ == "__main__":
    main()
