"""Models whose own forward, or loss, makes tensors of sizes that depend on data."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, CLASSES, VOCABULARY, LENGTH = 16, 5, 20, 6


class Chosen(nn.Module):
    """What `kind` says is done with the rows between two layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.c, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.gate = nn.Linear(WIDTH, 3)
        self.register_buffer("kept", torch.arange(WIDTH) % 3 == 0)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """A loss."""
        hidden = torch.relu(self.a(x))
        return KINDS[self.kind](self, hidden, labels)


def masked(m: Any, h: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Rows by a mask of the labels."""
    keep = labels != 1
    return F.cross_entropy(m.head(torch.relu(m.b(h)))[keep], labels[keep])


def selected(m: Any, h: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Elements by a mask that parameters decide."""
    y = m.head(torch.relu(m.b(h)))
    return y.masked_select(y > 0).square().mean() + y[labels > 1].sum()


def put(m: Any, h: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Rows taken out, computed and put back."""
    out, mask = torch.zeros_like(h), h[:, 0] > 0.1
    out[mask] = m.b(h[mask])
    return F.cross_entropy(m.head(torch.relu(m.c(out))), labels)


def repeated(m: Any, h: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Each row as often as a label says: as many as nothing bounds."""
    y = torch.relu(m.b(h.repeat_interleave(labels + 1, 0)))
    return m.head(y).square().sum() / y.shape[0]


def places(m: Any, h: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """torch.where with one argument, and a view and a range of the size that it makes."""
    (rows,) = torch.where(labels > 0)
    y = torch.relu(m.b(h[rows])).view(rows.shape[0] * 2, -1).tanh().reshape(-1, WIDTH)
    return (m.head(F.dropout(y, 0.2)) * torch.arange(rows.numel())[:, None]).mean()


def distinct(m: Any, h: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """torch.unique, and columns by a mask that is a buffer."""
    values, inverse = torch.unique(labels, return_inverse=True)
    sums = torch.zeros(values.shape[0], WIDTH).index_add(0, inverse, m.b(h))
    return m.head(torch.relu(sums)).square().mean() + m.c(h)[:, m.kept].mean()


def equal(m: Any, h: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Two masks of their own that select as many: a run checks it."""
    return m.head(h[labels != 1] + m.b(h)[labels * 1 != 1]).square().mean()


def routed(m: Any, h: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Each row to its best expert."""
    weights, best = m.gate(h).softmax(-1).max(-1)
    out = torch.zeros_like(h)
    for number, expert in enumerate((m.b, m.c, m.a)):
        rows = (best == number).nonzero().squeeze(1)
        out.index_add_(0, rows, expert(h[rows]) * weights[rows, None])
    return F.cross_entropy(m.head(out), labels)


def counted(m: Any, h: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A size alone, as a number."""
    losses = F.cross_entropy(m.head(torch.relu(m.b(h))), labels, reduction="none")
    return losses.sum() / max((labels > 1).nonzero().shape[0], 1)


def asked(m: Any, h: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A choice by such a size."""
    rows = h[labels > 0]
    if rows.shape[0] == 0:
        return h.sum()
    return m.head(rows).square().mean()


def many(m: Any, h: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A choice that only the batch decides."""
    rows = h[labels > 0]
    return m.head(rows if rows.shape[0] > 4 else h).square().mean()


def measured(m: Any, h: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A size as a number of Python's."""
    rows = h[labels > 0]
    return m.head(rows).square().sum() / len(rows)


KINDS: dict[str, Callable[..., torch.Tensor]] = {
    function.__name__: function
    for function in (
        *(masked, selected, put, repeated, places, distinct, equal, routed, counted, asked),
        *(many, measured),
    )
}


def chosen(kind: str) -> nn.Module:
    """The model of a kind."""
    return Chosen(kind)


def rows(samples: int) -> dict[str, torch.Tensor]:
    """Samples with labels."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(samples, WIDTH, generator=generator)
    return {"x": x, "labels": torch.arange(samples) % CLASSES}


class Tagger(nn.Module):
    """Tokens to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 2, 32, 0.1, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)  # type: ignore[no-any-return]


def tagger() -> nn.Module:
    """A model whose loss chooses tokens."""
    return Tagger()


def tokens(samples: int) -> dict[str, torch.Tensor]:
    """Tokens, of which some have no label."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, VOCABULARY, (samples, LENGTH), generator=generator)
    hidden = torch.rand(samples, LENGTH, generator=generator) < 0.4
    return {"ids": ids, "labels": ids.masked_fill(hidden, -100)}


def of_labelled(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross entropy of the tokens that have a label."""
    labels = batch["labels"]
    return F.cross_entropy(logits[labels != -100], labels[labels != -100])
