"""Data, and a user's own loop, for trainings that stop, diverge or continue."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.models.core import Mlp

Batch = dict[str, Any]


def steady() -> Iterator[Batch]:
    """The same batches in every run."""
    for step in range(1000):
        generator = torch.Generator().manual_seed(step)
        yield {name: torch.randn(8, 32, generator=generator) for name in ("x", "target")}


def shuffled() -> Iterator[Batch]:
    """Epochs of four batches, each epoch in another order."""
    batches = [batch for batch, _ in zip(steady(), range(4), strict=False)]
    for at in torch.randperm(4).tolist():
        yield batches[at]


def tokens() -> Iterator[Batch]:
    """The same batches of a language model in every run."""
    for step in range(1000):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(3, 64, (8, 16), generator=generator)
        yield {"input_ids": ids, "labels": ids.clone()}


def slow() -> Iterator[Batch]:
    """The same batches, so slowly that a run can be stopped in between."""
    for batch in steady():
        time.sleep(0.05)
        yield batch


def diverging() -> Iterator[Batch]:
    """No finite loss from the sixth batch on."""
    for step, batch in enumerate(steady()):
        if step >= 5:
            batch["x"][0, 0] = float("nan")
        yield batch


def doubles() -> Iterator[Batch]:
    """Another dtype than the plan's."""
    for batch in steady():
        yield {name: tensor.double() for name, tensor in batch.items()}


def scalars() -> Iterator[Batch]:
    """An input without samples."""
    for batch in steady():
        yield {**batch, "target": torch.tensor(1.0)}


def other(**args: Any) -> torch.nn.Module:
    """The same model under another name."""
    from tests.models.core import mlp

    return mlp(**args)


class Waits:
    """Data whose state_dict takes long, as a checkpoint does on a slow file system."""

    def state_dict(self) -> dict[str, int]:
        time.sleep(9)
        return {}


def slow_saver(plan: str, folder: str) -> None:
    """A loop that saves slowly."""
    import pipecut

    pipe = pipecut.load(plan, device="cpu")
    optimizer = torch.optim.AdamW(pipe.parameters())
    source = steady()
    for step in range(3):
        pipe.step(**next(source))
        optimizer.step()
        optimizer.zero_grad()
        pipe.save(folder, optimizer, step=step + 1, data=Waits() if step == 1 else None)


def on_own_machine(base: str, arguments: list[str]) -> None:
    """A rank in a folder that only some ranks see, as if they were on other machines."""
    from pipecut.runtime.__main__ import main

    machine = Path(base) / f"machine_{int(os.environ['RANK']) // 2}"
    machine.mkdir(exist_ok=True)
    os.chdir(machine)
    sys.argv = ["pipecut.runtime", *arguments]
    main()


if __name__ == "__main__":
    program, *arguments = sys.argv[1:]
    if program == "slow_saver":
        slow_saver(*arguments)
    else:
        on_own_machine(arguments[0], arguments[1:])


class Summing(Mlp):
    """Its loss adds up the samples."""

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (self.layers(x) - target).square().sum()


def summing() -> torch.nn.Module:
    return Summing(depth=2)
