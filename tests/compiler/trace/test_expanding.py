"""What is expanded to the batch by a condition is no choice for one sample, and all else is one."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.export import Dim

from pipecut.compiler.trace.batch_of_one import noting_choices

SAMPLES = 3
Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Calls(nn.Module):
    """Calls a function of a batch and of a row."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        return self.function(x, row)


def choices_of(function: Forward) -> list[str]:
    batch = torch.ones(SAMPLES, 4), torch.ones(1, 4)
    shapes = {"x": {0: Dim("batch", min=1)}, "row": None}
    with noting_choices(SAMPLES) as places:
        torch.export.export(Calls(function), batch, dynamic_shapes=shapes, strict=False)
    return places


def expanded(x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    samples = x.shape[0]
    # As transformers does with positions.
    if samples != row.shape[0]:
        row = row.expand(samples, -1)
    return x + row


def left_where_alike(x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    n, width = x.shape
    if row.shape[0] != n:
        row = row.expand(n, width)
    if 1 != n:
        row = row.expand(n, 4)
    return x + row


@pytest.mark.parametrize("function", [expanded, left_where_alike])
def test_to_expand_to_the_shape_that_one_sample_has_is_no_choice(function: Forward) -> None:
    assert choices_of(function) == []


def with_more_beside_it(x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    n = x.shape[0]
    if n != row.shape[0]:
        row = row.expand(n, -1)
        x = x * 2
    return x + row


def with_another_way(x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    n = x.shape[0]
    if n != row.shape[0]:  # noqa: SIM108
        row = row.expand(n, -1)
    else:
        row = row * 2
    return x + row


def to_another_variable(x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    n, wide = x.shape[0], row * 2
    if n != row.shape[0]:
        wide = row.expand(n, -1)
    return x + wide


def to_another_shape(x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    n = x.shape[0]
    if n != row.shape[0]:
        row = row.expand(2, n, -1)
    return x + row.sum(0)


def to_another_size(x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    n, row = x.shape[0], row[:, :1]
    if n != row.shape[0]:
        row = row.expand(n, 4)
    return x + row.sum(1, keepdim=True)


def in_part_of_a_condition(x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    n, always = x.shape[0], True
    if n != row.shape[0] and always:
        row = row.expand(n, -1)
    return x + row


def of_a_marked_tensor(x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    n, row = x.shape[0], row * 2
    row.marked = True  # type: ignore[attr-defined]
    if n != row.shape[0]:
        row = row.expand(n, -1)
    return x + (row * 3 if hasattr(row, "marked") else row)


def copied(x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    n = x.shape[0]
    if n != row.shape[0]:
        row = row.repeat(n, 1)
    return x + row


@pytest.mark.parametrize(
    "function",
    [
        with_more_beside_it,
        with_another_way,
        to_another_variable,
        to_another_shape,
        to_another_size,
        in_part_of_a_condition,
        of_a_marked_tensor,
        copied,
    ],
)
def test_anything_else_is_one(function: Forward) -> None:
    (place,) = choices_of(function)
    assert place.startswith(__file__)
