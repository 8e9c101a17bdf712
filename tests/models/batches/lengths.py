"""Batches whose length is left open, and models that follow it or do not."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.models.core import VOCABULARY

LONGEST = 24


def tokens(microbatch: int, length: int = LONGEST) -> dict[str, torch.Tensor]:
    """Tokens that are labels, too."""
    ids = torch.randint(3, VOCABULARY, (microbatch, length))
    return {"input_ids": ids, "labels": ids.clone()}


def packed(microbatch: int, length: int = LONGEST) -> dict[str, torch.Tensor]:
    """Samples of which each has three packed sequences, with places within them and their mask."""
    batch = tokens(microbatch, length)
    # A short sample has one sequence: each needs a label that is predicted.
    starts = torch.tensor([0, length // 4, length // 2] if length > 8 else [0])
    place = torch.arange(length)
    sequence = (place[:, None] >= starts).sum(1)
    positions = place - starts[sequence - 1]
    # No sequence sees another; the first label of each is not predicted from the one before.
    sees = (sequence[:, None] == sequence) & (place[:, None] >= place)
    batch["labels"][:, starts] = -100
    batch["position_ids"] = positions.expand(microbatch, -1).contiguous()
    batch["attention_mask"] = sees.expand(microbatch, 1, -1, -1).contiguous()
    return batch


class Positions(nn.Module):
    """A learnt position for each place, added as a whole where `fixed`, and cut where not."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.position = nn.Parameter(torch.randn(LONGEST, 8) / 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, VOCABULARY)
        self.fixed = fixed

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(input_ids)
        table = self.position if self.fixed else self.position[: input_ids.shape[1]]
        hidden = hidden + table
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        return F.cross_entropy(self.head(hidden).flatten(0, 1), labels.flatten())


def positions() -> nn.Module:
    """A model that cuts its table of positions."""
    torch.manual_seed(1)
    return Positions(fixed=False)


def of_one_length() -> nn.Module:
    """A model that adds its whole table of positions."""
    torch.manual_seed(1)
    return Positions(fixed=True)


class Choosing(Positions):
    """Does something else with long batches."""

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] > LONGEST // 2:
            input_ids = input_ids.flip(1)
        return super().forward(input_ids, labels)


def choosing() -> nn.Module:
    """A model that chooses by length."""
    torch.manual_seed(1)
    return Choosing(fixed=False)


class Comparing(Positions):
    """Does something else with batches of as many samples as places."""

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[0] == input_ids.shape[1]:
            input_ids = input_ids.flip(1)
        return super().forward(input_ids, labels)


def comparing() -> nn.Module:
    """A model that compares samples with their length."""
    torch.manual_seed(1)
    return Comparing(fixed=False)
