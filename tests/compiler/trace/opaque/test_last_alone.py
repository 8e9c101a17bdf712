"""State of opaque modules that settles or grows with data, and state of the last call alone."""

from typing import Any

import pytest
import torch
from torch import nn

from pipecut.compiler.trace.opaque.observed import FirstCall, Watched, observe
from pipecut.errors import TraceError

LARGEST = {"top": 1.0}


class Keeping(nn.Module):
    """Keeps something of what it is given in one of many ways."""

    largest: torch.Tensor

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.last: Any = None
        self.top = torch.zeros(())
        self.table: dict[int, Any] = {}
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A result like x."""
        return x * getattr(self, f"_{self.how}")(x.detach())

    def _largest(self, x: torch.Tensor) -> torch.Tensor:
        self.top = torch.maximum(self.top, x.abs().max())
        return self.top

    def _largest_in_place(self, x: torch.Tensor) -> torch.Tensor:
        self.top.copy_(torch.maximum(self.top, x.abs().max()))
        return self.top

    def _first(self, x: torch.Tensor) -> float:
        if self.last is None:
            self.last = float(x.std())
        return float(self.last)

    def _first_mean(self, x: torch.Tensor) -> torch.Tensor:
        if self.last is None:
            self.last = x.mean(0)
        return torch.as_tensor(self.last)

    def _before(self, x: torch.Tensor) -> torch.Tensor:
        before, self.last = self.last, x.mean()
        return x.mean() if before is None else before

    def _first_by_width(self, x: torch.Tensor) -> float:
        return float(self.table.setdefault(x.shape[-1], x.std().item()))

    def _global(self, x: torch.Tensor) -> float:
        LARGEST["top"] = max(LARGEST["top"], float(x.abs().max()))
        return LARGEST["top"]

    def _first_samples(self, x: torch.Tensor) -> int:
        self.last = self.last or len(x)
        return int(self.last)

    def _settled(self, x: torch.Tensor) -> float:
        self.last = "full"
        return 2.0

    def _anew(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x.mean()
        return torch.as_tensor(self.last)

    def _table_of_samples(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) not in self.table:
            self.table[len(x)] = torch.arange(float(len(x)))[:, None]
        return torch.as_tensor(self.table[len(x)])

    def _buffer(self, x: torch.Tensor) -> torch.Tensor:
        self.largest.copy_(torch.maximum(self.largest, x.abs().max()))
        return self.largest


def see(how: str) -> Keeping:
    """Calls with two numbers of samples, as the compiler makes them."""
    module, first_calls = Keeping(how), dict[str, FirstCall]()
    torch.manual_seed(0)
    for samples in (2, 3):
        watched = Watched("part", module, module.forward, {}, first_calls=first_calls)
        observe(watched, {"batch": samples}, (torch.randn(samples, 4),), {})
    return module


REFUSED = {
    "largest": "'part.top'",
    "largest_in_place": "'part.top'",
    "first": "'part.last'",
    "first_mean": "'part.last'",
    "before": "what 'part' (Keeping) returns",
    "first_by_width": "'part.table[4]'",
    "global": ".LARGEST['top']'",
    "first_samples": "'part.last'",
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_depends_on_earlier_calls_is_refused(how: str) -> None:
    with pytest.raises(TraceError) as refused:
        see(how)
    message = str(refused.value)
    assert REFUSED[how] in message and "depends on earlier forwards" in message
    assert how == "before" or "test_last_alone.py:" in message
    assert "register_buffer" in message


@pytest.mark.parametrize("how", ["settled", "anew", "table_of_samples", "buffer"])
def test_what_is_of_the_last_call_alone_may_stay(how: str) -> None:
    see(how)


def test_a_comparison_leaves_state_as_a_call_does() -> None:
    module = see("table_of_samples")
    assert list(module.table) == [2, 3]
