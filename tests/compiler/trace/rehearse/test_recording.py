"""Two forwards do the same if their calls depend on the same tensors, numbers and constants."""

from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from pipecut.compiler.trace.rehearse.recording import OtherCall, Recording

X = torch.ones(2, 3)
KEPT: dict[str, torch.Tensor] = {}
Forward = Callable[[int], torch.Tensor]


def table(_: int) -> torch.Tensor:
    """Filled once, from numbers alone."""
    if "table" not in KEPT:
        KEPT["table"] = torch.arange(3) * 2
    return X + KEPT["table"]


def of_batch(_: int) -> torch.Tensor:
    if "batch" not in KEPT:
        KEPT["batch"] = X * 2
    return X + KEPT["batch"]


def moving(_: int) -> torch.Tensor:
    KEPT["moving"] = KEPT.get("moving", torch.ones(3)) * 0.9
    return X * KEPT["moving"]


def written(_: int) -> torch.Tensor:
    mask = torch.zeros(2, 3)
    mask[:, 0] = 1
    return X.masked_fill(mask.bool(), 0.0)


def written_otherwise(number: int) -> torch.Tensor:
    mask = torch.zeros(2, 3)
    mask[:, number] = 1
    return X.masked_fill(mask.bool(), 0.0)


def twice(forward: Forward) -> None:
    KEPT.clear()
    with Recording([X]) as first:
        forward(0)
    with Recording([X], first) as second:
        forward(1)
    second.end()


SAME: dict[str, Forward] = {
    "plain": lambda _: torch.relu(X * 2) + torch.ones(3),
    "a table that is kept": table,
    "an attribute that is a tensor": lambda _: X + (X * 2).mT.mT,
    "a mask that is written": written,
    "random numbers": lambda _: X * torch.rand(3),
}
OTHER: dict[str, Forward] = {
    "another number": lambda number: X * (number + 1),
    "another function": lambda number: torch.relu(X) if number else torch.tanh(X),
    "a call more": lambda number: (X * 2) * 2 if number else X * 2,
    "a call less": lambda number: X * 2 if number else (X * 2) * 2,
    "another constant": lambda number: X + torch.full((3,), float(number)),
    "a draw more": lambda number: X + (torch.rand(3) * 0 if number else 0),
    "a tensor of the forward before": of_batch,
    "a constant that moves": moving,
    "a mask that is written otherwise": written_otherwise,
}


@pytest.mark.parametrize("name", sorted(SAME))
def test_the_same_calls_are_the_same(name: str) -> None:
    twice(SAME[name])


@pytest.mark.parametrize("name", sorted(OTHER))
def test_other_calls_are_told(name: str) -> None:
    with pytest.raises(OtherCall):
        twice(OTHER[name])


def test_the_line_is_that_of_the_second_call() -> None:
    with pytest.raises(OtherCall) as raised:
        twice(OTHER["another number"])
    assert "test_recording.py:" in raised.value.place and "mul" in raised.value.now


def test_sizes_that_depend_on_data_are_named_anew_in_each_forward() -> None:
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        x = mode.from_tensor(X, static_shapes=True)
        with Recording([x]) as first:
            first_size = (x * 1).nonzero().contiguous().shape[0]
        with Recording([x], first) as second:
            second_size = (x * 1).nonzero().contiguous().shape[0]
        second.end()
    assert str(first_size) != str(second_size)
