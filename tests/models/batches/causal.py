"""A causal model whose samples are what they are by themselves, and batches as they come."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, VOCABULARY, LONGEST, IGNORED = 8, 11, 16, -100
SAMPLES = 8
PAD = {"ids": 0, "labels": IGNORED}


class Causal(nn.Module):
    """What comes behind a token does not change it, so neither does padding."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.reduction = reduction
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.Sequential(
            *[nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(6)]
        )
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hidden = self.layers(self.embedding(ids).cumsum(1) * 0.3)
        logits = self.head(hidden.cumsum(1) * 0.3)
        return F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction=self.reduction
        )


def causal(reduction: str = "mean") -> nn.Module:
    return Causal(reduction)


def inputs(samples: int, length: int = LONGEST) -> dict[str, torch.Tensor]:
    """Every second label is ignored in the mean, at least one of each sample is not."""
    ids = torch.randint(0, VOCABULARY, (samples, length))
    labels = torch.randint(0, VOCABULARY, (samples, length))
    labels[:, 1:][torch.rand(samples, length - 1) < 0.5] = IGNORED
    return {"ids": ids, "labels": labels}


def batches(microbatch: int) -> dict[str, dict[str, Any]]:
    """Batches of 8 samples in microbatches of so many, and smaller ones, by what they are."""
    torch.manual_seed(3)
    counts = [microbatch] * (SAMPLES // microbatch)
    counts += [SAMPLES % microbatch] if SAMPLES % microbatch else []
    smaller = [max(1, count - number) for number, count in enumerate(counts)]
    return {
        "whole": inputs(SAMPLES),
        "short": inputs(SAMPLES, 5),
        "last": inputs(SAMPLES - 3),
        "listed": listed([inputs(n, LONGEST - 3 * k) for k, n in enumerate(counts)]),
        "listed and smaller": listed([inputs(n, 4 + 3 * k) for k, n in enumerate(smaller)]),
        "samples": as_samples([3, LONGEST, 2, 7, 4, 12, 3, 2]),
        "samples of an end": as_samples([9, 2, 5, LONGEST, 3]),
    }


def listed(parts: list[dict[str, torch.Tensor]]) -> dict[str, list[torch.Tensor]]:
    """A list for each input."""
    return {name: [part[name] for part in parts] for name in parts[0]}


def as_samples(lengths: list[int]) -> dict[str, list[torch.Tensor]]:
    """Samples without their dimension."""
    return listed([{n: t[0] for n, t in inputs(1, length).items()} for length in lengths])


def by_itself(batch: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
    """Each sample of a batch as a batch of its own."""
    if isinstance(batch["ids"], torch.Tensor):
        given = [batch]
    else:
        given = [
            {name: values[number] for name, values in batch.items()}
            for number in range(len(batch["ids"]))
        ]
    parts = [{name: t if t.dim() == 2 else t[None] for name, t in each.items()} for each in given]
    return [
        {name: t[row : row + 1] for name, t in part.items()}
        for part in parts
        for row in range(len(part["ids"]))
    ]
