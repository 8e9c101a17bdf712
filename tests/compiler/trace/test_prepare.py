"""A batch must have what the model's forward takes."""

from typing import Any

import pytest
import torch
from torch import nn

from pipecut.compiler.trace.batch import ExampleBatch
from pipecut.compiler.trace.prepare import check_names
from pipecut.errors import TraceError
from pipecut.model.unsplit import WithLoss


class Takes(nn.Module):
    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return x * scale


class TakesAny(nn.Module):
    def forward(self, **batch: torch.Tensor) -> torch.Tensor:
        return sum(batch.values(), torch.zeros(1))


def batch(*tensors: str, **constants: Any) -> ExampleBatch:
    return ExampleBatch(2, {name: torch.ones(2) for name in tensors}, frozenset(), constants)


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (Takes(), batch("x")),
        (Takes(), batch("x", scale=2.0)),
        (TakesAny(), batch("x", "y")),
    ],
)
def test_what_forward_takes_may_be_in_a_batch(model: nn.Module, given: ExampleBatch) -> None:
    check_names(WithLoss(model, None), given, "m:inputs")


def test_what_forward_needs_must_be_in_a_batch() -> None:
    with pytest.raises(TraceError, match="forward needs 'x', which m:inputs does not return"):
        check_names(WithLoss(Takes(), None), batch("y"), "m:inputs")


def test_what_nothing_takes_must_not_be_in_a_batch() -> None:
    message = r"m:inputs returns 'labels', which .* does not take \(it takes scale, x\).*loss:"
    with pytest.raises(TraceError, match=message):
        check_names(WithLoss(Takes(), None), batch("x", "labels"), "m:inputs")


def test_a_loss_function_may_take_what_the_model_does_not() -> None:
    with_loss = WithLoss(Takes(), lambda output, batch: (output - batch["labels"]).mean())
    check_names(with_loss, batch("x", "labels"), "m:inputs")
