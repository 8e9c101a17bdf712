"""A small classifier, with data to train, evaluate and predict with: what docs/ tries its loops on.

pipecut compile examples/classifier.yaml -o plan/
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

Batch = dict[str, torch.Tensor]
FEATURES, CLASSES = 16, 4


class Classifier(nn.Module):
    """Layers with dropout; returns the loss and the logits."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.inside = nn.Linear(FEATURES, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> Batch:
        """Features [batch, 16] and labels [batch] to the loss and logits [batch, 4]."""
        hidden = self.inside(features)
        for layer in self.layers:
            hidden = hidden + self.dropout(F.gelu(layer(hidden)))
        logits = self.head(self.norm(hidden))
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def build(width: int = 64, depth: int = 4) -> nn.Module:
    """The model, for `model: {factory: ...}`."""
    return Classifier(width, depth)


def inputs(microbatch: int) -> Batch:
    """An example batch, for `inputs:`."""
    return _labelled(torch.randn(microbatch, FEATURES))


def _labelled(features: torch.Tensor) -> Batch:
    """The class of a sample is the largest of its first features."""
    return {"features": features, "labels": features[:, :CLASSES].argmax(dim=1)}


def batches(count: int = 8) -> Iterator[Batch]:
    """Global batches of 32 samples: an epoch of training, the same in every run."""
    for step in range(count):
        generator = torch.Generator().manual_seed(step)
        yield _labelled(torch.randn(32, FEATURES, generator=generator))


def parts(rank: int, count: int) -> Iterator[Batch]:
    """A replica's own part of `batches`: the one numbered `rank` of `count`."""
    for batch in batches():
        yield {name: tensor.chunk(count)[rank] for name, tensor in batch.items()}


def with_rest() -> Iterator[Batch]:
    """An epoch whose last batch is smaller."""
    *whole, last = batches()
    yield from whole
    yield {name: tensor[:13] for name, tensor in last.items()}


def validation() -> Iterator[Batch]:
    """Held-out batches, of which the last is smaller."""
    for size in (32, 32, 7):
        generator = torch.Generator().manual_seed(1000 + size)
        yield _labelled(torch.randn(size, FEATURES, generator=generator))


def questions() -> Iterator[Batch]:
    """Batches to predict: without labels, which only the loss needs."""
    for batch in validation():
        yield {"features": batch["features"]}
