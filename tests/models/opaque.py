"""A model whose experts choose their tokens by nonzero, which no graph can hold."""

import random
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

WIDTH, VOCABULARY, LENGTH = 16, 20, 6
CALLS: list[int] = []
TABLES: dict[int, torch.Tensor] = {}


class Experts(nn.Module):
    """Each token goes to its best expert; how many an expert gets depends on data."""

    def __init__(self, experts: int = 3, counting: bool = True) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, experts)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(experts))
        self.drop = nn.Dropout(0.2)
        self.register_buffer("counts", torch.zeros(experts) if counting else None)

    def forward(self, x: torch.Tensor, scale: Any = None, *, like: Any = ()) -> Any:
        """The result, and how many tokens each expert got."""
        rows = x.reshape(-1, WIDTH)
        weights, chosen = self.gate(rows).softmax(-1).max(-1)
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            mine = (chosen == number).nonzero().squeeze(1)
            if len(mine):
                out.index_add_(0, mine, self.drop(expert(rows[mine])) * weights[mine, None])
        counts = torch.bincount(chosen, minlength=len(self.experts))
        if self.training and self.counts is not None:
            self.counts += counts
        return {"hidden": out.view_as(x), "counts": counts, "names": ("a", None)}


class Block(nn.Module):
    """Its experts are opaque."""

    def __init__(self, experts: int, counting: bool) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.drop, self.moe = nn.Dropout(0.1), Experts(experts, counting)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A result like x."""
        x = x + self.drop(torch.relu(self.linear(x)))
        normed = self.norm(x)
        found = self.moe(normed, None, like=(normed, {"k": 2}))
        return x + found["hidden"] * found["counts"].float().mean()


class Mixture(nn.Module):
    """Tokens to a loss."""

    def __init__(self, layers: int, tied: bool, experts: int, counting: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block(experts, counting) for _ in range(layers))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embed.weight
            self.layers[0].moe.experts[0].weight = self.layers[-1].moe.experts[0].weight

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss, and what is behind it."""
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        logits = self.head(x)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


class TiedHead(Mixture):
    """It uses the parameter of one of its modules without calling that."""

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss."""
        x = F.embedding(ids, self.embed.weight)
        for layer in self.layers:
            x = layer(x)
        return {"loss": F.cross_entropy(self.head(x).flatten(0, 1), labels.flatten())}


def tied_head() -> nn.Module:
    """A model that does not run module by module."""
    return TiedHead(2, False, 3, False)


def mixture(
    layers: int = 3, tied: bool = False, experts: int = 3, counting: bool = True
) -> nn.Module:
    """A mixture of experts, which may be `counting` in a buffer what they get."""
    return Mixture(layers, tied, experts, counting)


def tokens(samples: int) -> dict[str, torch.Tensor]:
    """Tokens and labels."""
    return ragged(samples, LENGTH)


def ragged(samples: int, length: int = 12) -> dict[str, torch.Tensor]:
    """Tokens and labels of a length that may vary."""
    ids = torch.randint(0, VOCABULARY, (samples, length))
    return {"ids": ids, "labels": ids.roll(1, 1)}


class Added(nn.Module):
    """Its opaque module adds a row, so that no size of its is a multiple of the length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.longer = Longer()

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """A loss."""
        x = self.longer(self.embed(ids)).mean(1)
        return F.cross_entropy(self.head(x), labels[:, 0])


class Longer(nn.Module):
    """One step more than it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Steps of x."""
        return torch.cat([x, x[:, :1]], 1) if x.isfinite().all() else x


def added() -> nn.Module:
    """A model whose opaque module is known for one length only."""
    return Added()


class Chosen(nn.Module):
    """As many rows as are positive."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rows of x."""
        return x[x.sum(-1) > 0]


class Choosing(nn.Module):
    """Its opaque module returns what no stage can count."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.chosen = nn.Linear(4, 4), Chosen()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A loss."""
        return self.chosen(self.linear(x)).square().mean()


def choosing() -> nn.Module:
    """A model that is refused."""
    return Choosing()


def rows(samples: int) -> dict[str, torch.Tensor]:
    """Rows of numbers."""
    return {"x": torch.linspace(-1, 1, 4 * samples).sin().view(samples, 4)}


class Odd(nn.Module):
    """What a trace leaves out or cannot hold, by kind; tokens of a sample to a result like x."""

    mean: torch.Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True) if kind == "packed" else None
        if kind == "assigned":
            self.register_buffer("mean", torch.zeros(()))
        if kind == "hooked":
            self.register_forward_pre_hook(lambda _, args: (2 * args[0],))
            self.register_forward_hook(lambda _, args, result: result * result)
        if kind == "backward":
            self.register_full_backward_hook(lambda _, given, got: (given[0] * 0.5,))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A result like x."""
        return torch.tanh(getattr(self, f"_{self.kind}")(self.linear(x)))

    def _hooked(self, x: torch.Tensor) -> torch.Tensor:
        return x

    _backward = _hooked

    def _gradient(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient * 0.5)
        return x

    def _assigned(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.detach().mean()
        self.mean = mean if self.mean == 0 else 0.9 * self.mean + 0.1 * mean
        return x * self.mean

    def _drawn(self, x: torch.Tensor) -> torch.Tensor:
        return x * random.random() + torch.from_numpy(numpy.random.rand(len(x), 1).astype("f4"))

    def _numpy(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.from_numpy(x.detach().numpy().round())

    def _chosen(self, x: torch.Tensor) -> torch.Tensor:
        chosen = x[:, 0] > 0
        return x + torch.zeros_like(x).masked_scatter(chosen[:, None], x[chosen].sin())

    def _distinct(self, x: torch.Tensor) -> torch.Tensor:
        return x * len(torch.unique((x * 2).round()))

    def _functional(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.vmap(torch.func.grad(lambda row: (row**3).sum()))(x)

    def _counted(self, x: torch.Tensor) -> torch.Tensor:
        CALLS.append(1)
        return x * (1 + len(CALLS) % 4)

    def _table(self, x: torch.Tensor) -> torch.Tensor:
        table = TABLES.setdefault(len(x), torch.arange(float(len(x)))[:, None])
        return x * table

    def _positive(self, x: torch.Tensor) -> torch.Tensor:
        if (self.linear.bias == 1).all():
            raise ValueError("nobody has trained this")
        return x

    def _packed(self, x: torch.Tensor) -> torch.Tensor:
        assert self.lstm is not None
        rows = x.view(-1, LENGTH, WIDTH)
        lengths = 1 + (rows[..., 0] > 0).sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(
            rows, lengths, batch_first=True, enforce_sorted=False
        )
        result, _ = self.lstm(packed)
        padded, _ = nn.utils.rnn.pad_packed_sequence(result, batch_first=True, total_length=LENGTH)
        return padded.reshape(x.shape)

    def _checkpointed(self, x: torch.Tensor) -> torch.Tensor:
        def drop(y: torch.Tensor) -> torch.Tensor:
            return F.dropout(y, 0.2, self.training) * (1 if y.sum() > 0 else 2)

        result: torch.Tensor = checkpoint(drop, x, use_reentrant=False)
        return result


class Oddities(nn.Module):
    """One block of each kind after the other, with dropout between."""

    def __init__(self, kinds: list[str]) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(VOCABULARY, WIDTH), nn.Dropout(0.1)
        self.blocks = nn.ModuleDict({kind: Odd(kind) for kind in kinds})
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss."""
        x = self.embed(ids).flatten(0, 1)
        for block in self.blocks.values():
            x = x + self.drop(block(x))
        return F.cross_entropy(self.head(x), labels.flatten())


def odd(kinds: list[str]) -> nn.Module:
    """A model of these kinds."""
    return Oddities(kinds)


class Flag(nn.Module):
    """One tensor, and a flag that is the same for all batches."""

    def forward(self, x: torch.Tensor) -> Any:
        """x, and whether it has several values."""
        return x.sin(), len(x.unique()) > 1, 2 * len(x)


class Flagging(Choosing):
    """It does what a flag of its opaque module says."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen, self.head = Flag(), nn.Linear(4, 4)  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A loss."""
        y, varied, count = self.chosen(self.linear(x))
        return self.head(3 * y if varied else y).square().sum() / count


def flagging() -> nn.Module:
    """A model with an opaque module that returns more than tensors."""
    return Flagging()


class Picking(Choosing):
    """It chooses by a value in its own forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A loss."""
        y = self.linear(x)
        return y.square().mean() if y.sum() > 0 else y.mean()


def picking() -> nn.Module:
    """A model that is refused."""
    return Picking()
