"""A module may reach tensors of elsewhere, unless no stage would have them or they move on."""

from typing import Any

import pytest
import torch
from torch import nn

from pipecut.compiler.trace.opaque.observed import Watched, observe
from pipecut.compiler.trace.opaque.outside import storage_of
from pipecut.errors import TraceError

TABLE = torch.ones(4)


class Reaching(nn.Module):
    """Reaches tensors of elsewhere in one of many ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.inner, self.steps = how, nn.Linear(4, 4), torch.zeros(4)
        self.register_buffer("count", torch.zeros(4))
        # In a list, so that it is no part of the module.
        self.others = [nn.Linear(4, 4)]

    def forward(self, x: torch.Tensor, *given: Any) -> Any:
        """A result like x."""
        return getattr(self, f"_{self.how}")(self.inner(x), *given)

    def _another_module(self, x: torch.Tensor) -> torch.Tensor:
        return self.others[0](x)

    def _attribute(self, x: torch.Tensor) -> torch.Tensor:
        self.steps.add_(1)
        return x * self.steps

    def _view(self, x: torch.Tensor) -> torch.Tensor:
        self.steps[1:].add_(1)
        return x * self.steps

    def _seen_before(self, x: torch.Tensor) -> torch.Tensor:
        self.steps.copy_(x.detach().mean(0))
        return x

    def _appended(self, x: torch.Tensor, results: list[torch.Tensor]) -> torch.Tensor:
        results.append(x)
        return x

    def _key(self, x: torch.Tensor, results: dict[str, torch.Tensor]) -> torch.Tensor:
        results["x"] = x
        return x

    def _filled(self, x: torch.Tensor) -> torch.Tensor:
        self.steps[: len(x)] = torch.arange(float(len(x)))
        return x * self.steps * TABLE

    def _buffer(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x / self.count

    def _own(self, x: torch.Tensor) -> torch.Tensor:
        made = torch.zeros_like(x)
        made[0] += torch.from_numpy(x.detach().numpy()).mul_(2)[0]
        return made.add_(x)


def seen(how: str, *given: Any) -> None:
    module = Reaching(how)
    other = module.others[0]
    of_model = {storage_of(t): f"other.{name}" for name, t in other.named_parameters()}
    observe(
        Watched("part", module, module.forward, of_model),
        {"batch": 2},
        (torch.randn(2, 4), *given),
        {},
    )


REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "another_module": (r"uses 'other.weight' \(.*test_outside.py:\d+\), .* as an argument", ()),
    "attribute": (r"'part.steps' depends on earlier forwards.*:\d+ .*buffer of the module", ()),
    "view": ("'part.steps' depends on earlier forwards", ()),
    "seen_before": ("none of its buffers", ()),
    "appended": ("changes a list, dict or object that it is given", ([],)),
    "key": ("changes a list, dict or object that it is given", ({},)),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_no_plan_could_carry_is_refused(how: str) -> None:
    told, given = REFUSED[how]
    with pytest.raises(TraceError, match=told):
        seen(how, *given)


@pytest.mark.parametrize("how", ["filled", "buffer", "own"])
def test_tables_buffers_and_its_own_tensors_may_be_written(how: str) -> None:
    seen(how)
