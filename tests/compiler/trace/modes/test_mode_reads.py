"""The second trace is left out where the mode is known to matter to dropout alone."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipecut.compiler.trace.modes.mode_reads import ModeReads, watched_mode


class Asking(nn.Module):
    """Runs a function of the module and a tensor."""

    def __init__(self, function: Callable[[nn.Module, torch.Tensor], object]) -> None:
        super().__init__()
        self.function, self.rate, self.none, self.off = function, 0.0, None, False
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> object:
        return self.function(self, x)


def chooses(self: nn.Module, x: torch.Tensor) -> object:
    if self.training:
        x = x + 1
    return x


def chooses_where_on(self: nn.Module, x: torch.Tensor) -> object:
    if self.training and self.rate > 0.0:
        x = x + 1
    if not self.training and self.none is not None:
        x = x + 1
    return x


SAME: dict[str, tuple[Callable[..., object], int]] = {
    "dropout": (lambda self, x: F.dropout(x, 0.5, training=self.training), 1),
    "layer": (lambda self, x: self.dropout(self.dropout(x)), 2),
    "positional": (lambda self, x: torch.nn.functional.dropout(x, 0.5, self.training), 1),
    "equals": (lambda self, x: x * (0.0 if not self.training else self.rate), 0),
    "off": (chooses_where_on, 0),
    "unread": (lambda self, x: x + 1, 0),
}
OTHER: dict[str, Callable[..., object]] = {
    "chooses": chooses,
    "unequal": lambda self, x: x * (0.5 if self.training else self.rate),
    "keeps": lambda self, x: [self.training, x],
    "by name": lambda self, x: getattr(self, "training"),  # noqa: B009
    "passes on": lambda self, x: F.rrelu(x, training=self.training),
    "sets": lambda self, x: self.train(not self.off and False),
    "value of and": lambda self, x: x * (self.training and self.rate),
}


def seen(function: Callable[..., object]) -> ModeReads:
    model = Asking(function).train()
    with watched_mode(model) as reads:
        model(torch.ones(3))
    assert "training" not in vars(nn.Module)
    return reads


@pytest.mark.parametrize("name", sorted(SAME))
def test_what_changes_nothing_is_known(name: str) -> None:
    function, dropouts = SAME[name]
    assert seen(function) == ModeReads(dropouts, False)


@pytest.mark.parametrize("name", sorted(OTHER))
def test_what_may_change_something_is_seen(name: str) -> None:
    assert seen(OTHER[name]).differs


def test_a_module_with_a_mode_of_its_own_is_seen() -> None:
    class Own(nn.Linear):
        training = True

    with watched_mode(nn.Sequential(Own(3, 3))) as reads:
        pass
    assert reads.differs
