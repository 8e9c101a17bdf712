"""Iterables of batches as users write them, for the chain of tests/plans.py."""

from collections.abc import Iterator
from typing import Any

import torch


def inputs(count: int) -> dict[str, torch.Tensor]:
    """Random samples."""
    return {"x": torch.rand(count, 4)}


def pair() -> list[dict[str, torch.Tensor]]:
    """Two random batches, drawn when it is asked for."""
    return [inputs(8), inputs(8)]


def ones() -> Iterator[dict[str, torch.Tensor]]:
    """One batch."""
    yield {"x": torch.ones(8, 4)}


def number() -> int:
    """No iterable."""
    return 3


def mapping() -> dict[str, Any]:
    """A dictionary, which is no iterable of batches."""
    return {"x": torch.ones(8, 4)}


def nothing() -> list[Any]:
    """No batch at all."""
    return []


def lists() -> list[list[int]]:
    """Batches that are no dictionaries."""
    return [[1]]


def arrays() -> list[dict[str, Any]]:
    """Batches of no tensors."""
    return [{"x": torch.ones(8, 4).numpy()}]


def failing() -> Iterator[dict[str, torch.Tensor]]:
    """An error after the first batch."""
    yield inputs(8)
    raise KeyError("no file of\n  samples")


def leaving() -> list[Any]:
    """A script's own way out."""
    raise SystemExit(3)


def sharded(rank: int, count: int, size: int = 8) -> Iterator[dict[str, torch.Tensor]]:
    """A replica's part of a batch of numbers that tell its samples apart."""
    yield {"x": torch.arange(4.0 * size).view(size, 4).chunk(count)[rank]}
