"""Targets of CTC loss without sizes that depend on data.

Speech models select the labels that are no padding into one long row: as many as there are in the
batch. The loss takes the labels of each sample in a row of its own as well, and is the same: those
that are no padding first, in their order.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

SELECTS = {torch.masked_select, torch.Tensor.masked_select}
LOSSES = {torch.ctc_loss, F.ctc_loss}


@dataclass(frozen=True)
class _Selected:
    """What a call selected, by a mask; the result is kept so that its id stays its own."""

    result: torch.Tensor
    source: torch.Tensor
    mask: torch.Tensor


@dataclass
class CtcTargets:
    """Follows selections of a trace. `check` marks a condition that the replacement needs."""

    check: Callable[[torch.Tensor], None]
    selected: dict[int, _Selected] = field(default_factory=dict)

    def follow(self, func: Any, args: Any, result: Any) -> None:
        """Note what a call selected."""
        if func in SELECTS and len(args) == 2 and args[0].dim() == 2:
            self.selected[id(result)] = _Selected(result, args[0], args[1])

    def in_rows(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments of a loss, with targets in rows in place of selected ones."""
        if func not in LOSSES:
            return args, kwargs
        names = ("log_probs", "targets", "input_lengths", "target_lengths")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        lengths, log_probs = given["target_lengths"], given["log_probs"]
        selected = self.selected.get(id(given["targets"]))
        if selected is None or not isinstance(lengths, torch.Tensor) or log_probs.dim() != 3:
            return args, kwargs
        mask = selected.mask.expand_as(selected.source)
        self.check((lengths == mask.sum(-1)).all())
        order = torch.argsort((~mask).long(), dim=1, stable=True)
        rows = selected.source.gather(1, order)
        if len(args) > 1:
            return (args[0], rows, *args[2:]), kwargs
        return args, {**kwargs, "targets": rows}
