"""Choices that a model makes by a tensor's value while it is traced: their answers, marked."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx.node import has_side_effect

from pipecut.compiler.choices import Choice
from pipecut.compiler.trace.data_sizes.asked import AskedSizes

_LIBRARY: Any = torch.library.Library("pipecut_choice", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define("chosen(Tensor condition, int number) -> ()")


def _nothing(condition: torch.Tensor, number: int) -> None:
    """What the marker does: it computes nothing."""


_LIBRARY.impl("chosen", _nothing, "CPU")
torch.library.register_fake("pipecut_choice::chosen", _nothing, lib=_LIBRARY)
# In a trace: that a boolean tensor of one element was asked for, and the number of the choice.
CHOSEN: Any = torch.ops.pipecut_choice.chosen.default
has_side_effect(CHOSEN)


@dataclass
class Choices:
    """The choices of one trace, and how many calls it came through.

    `unanswered` are places that ask for a value which nothing tells; `of_sizes` are choices by
    sizes that depend on data.
    """

    made: list[Choice] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    calls: int = 0
    of_sizes: AskedSizes = field(default_factory=AskedSizes)

    def begin(self) -> None:
        """A trace begins, maybe once more."""
        self.made.clear()
        self.unanswered.clear()
        self.of_sizes.begin()
        self.calls = 0

    def mark(self, condition: torch.Tensor, choice: Choice) -> None:
        """Note a choice, and mark its condition in the trace."""
        CHOSEN(condition, len(self.made))
        self.made.append(choice)
