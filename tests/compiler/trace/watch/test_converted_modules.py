"""A forward may convert a module to what it is already, and to nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipecut.compiler.trace.watch.converted_modules import conversions_change_nothing
from pipecut.errors import TraceError


class Converting(nn.Module):
    def __init__(self, convert: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.inner, self.convert = nn.BatchNorm1d(2), convert

    def forward(self, x: torch.Tensor) -> Any:
        self.inner = self.convert(self.inner)
        return self.inner(x).sum()


@pytest.mark.parametrize(
    "convert", [lambda m: m.to(torch.float32), lambda m: m.float(), lambda m: m.cpu()]
)
def test_a_conversion_to_what_a_module_is_leaves_its_tensors(convert: Any) -> None:
    model = Converting(convert)
    before = [*model.parameters(), *model.buffers()]
    with conversions_change_nothing():
        program = torch.export.export(model, (torch.ones(3, 2),), strict=False)
    assert all(a is b for a, b in zip(before, [*model.parameters(), *model.buffers()], strict=True))
    assert "to" not in {node.name for node in program.graph.nodes}


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m.double(),
        lambda m: m.to(torch.bfloat16),
        lambda m: m.to("meta"),
        lambda m: m._apply(lambda tensor: tensor * 2),
    ],
)
def test_another_conversion_is_refused(convert: Any) -> None:
    with conversions_change_nothing(), pytest.raises(TraceError, match="converts BatchNorm1d"):
        Converting(convert)(torch.ones(3, 2))
