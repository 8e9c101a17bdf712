"""Attributes that opaque modules keep from one forward to the next."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipecut.compiler.trace.opaque.calls import CallKey
from pipecut.compiler.trace.opaque.left_behind import Ran, kept, run_twice_if_changed
from pipecut.errors import TraceError

KEY = CallKey("inner", 0, True)


class Keeping(nn.Module):
    """Leaves in `last` what a function makes of a batch and of what was there before."""

    seen: torch.Tensor

    def __init__(self, keep: Callable[[Any, torch.Tensor], Any], uses: bool = False) -> None:
        super().__init__()
        self.last: Any = torch.zeros(2)
        self.keep, self.uses = keep, uses
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        before, self.last = self.last, self.keep(self.last, x)
        return x + before if self.uses else x * 2


def run(module: Keeping) -> list[torch.Tensor]:
    """What each run gave."""
    results: list[torch.Tensor] = []

    def forward() -> Ran:
        results.append(kept(module(torch.ones(2))))
        return Ran({}, {KEY: results[-1]})

    run_twice_if_changed(module, {"inner": module}, forward)
    return results


def test_what_is_kept_of_each_batch_anew_changes_nothing() -> None:
    module = Keeping(lambda before, x: x + 1)
    first, second = run(module)
    assert torch.equal(first, second)
    assert module.seen == 1


def test_what_changes_no_attribute_runs_once() -> None:
    assert len(run(Keeping(lambda before, x: before))) == 1


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(Keeping(lambda before, x: before + 1), id="counter"),
        pytest.param(Keeping(lambda before, x: x + 1, uses=True), id="what was there before"),
        pytest.param(Keeping(lambda before, x: object()), id="what cannot be compared"),
    ],
)
def test_what_the_next_forward_needs_is_refused(module: Keeping) -> None:
    with pytest.raises(TraceError, match=r"'inner.last' changes from one forward to the next"):
        run(module)
