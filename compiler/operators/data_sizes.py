"""Operators that make a size which only their inputs' values tell, and the most that it can be."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

# Each finds at most one element, or row, for each element of its first input.
_FOUND = ("nonzero", "nonzero_numpy", "where", "_unique", "_unique2", "unique_consecutive")
_MASKS = (torch.bool, torch.uint8)
# The size that these make does not depend on what their first input holds.
CHOOSE_FROM_FIRST = ("index", "masked_select", "repeat_interleave")
# What repeat_interleave repeats by: the result has as many rows as that sums to.
_REPEATS = "repeat_interleave"


def makes_size(function: Any, args: Sequence[Any]) -> bool:
    """Whether a call of an operator makes a tensor of a size that depends on its inputs' values."""
    name = _name(function)
    if name == "index":
        return any(leaf.dtype in _MASKS for leaf in _tensors(args[1]))
    if name == _REPEATS:
        return len(_tensors(args[:2])) > 1 or function._overloadname == "Tensor"
    return torch.Tag.dynamic_output_shape in getattr(function, "tags", ())


def most_of(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The most that the size is which a call makes, as a number or a size; None where none is."""
    name, tensors = _name(function), _tensors((args, kwargs))
    if name in _FOUND:
        return tensors[0].numel()
    if name == "unique_dim":
        return tensors[0].shape[args[1]]
    if name == "index":
        return next(leaf for leaf in tensors[1:] if leaf.dtype in _MASKS).numel()
    if name == "masked_select":
        return _elements_of_both(tensors[0].shape, tensors[1].shape)
    return None


def guess_of(arguments: Any) -> Any:
    """What a size is taken to be of which no most is known: that of the inputs, about."""
    return max((leaf.shape[0] for leaf in _tensors(arguments) if leaf.dim()), key=_plain)


def _plain(size: Any) -> int:
    return size if isinstance(size, int) else 2


def _elements_of_both(left: Sequence[Any], right: Sequence[Any]) -> Any:
    """The elements of two tensors that are broadcast."""
    if len(left) < len(right):
        left, right = right, left
    elements: Any = 1
    for size, other in zip(left, [*[1] * (len(left) - len(right)), *right], strict=True):
        elements = elements * (other if isinstance(size, int) and size == 1 else size)
    return elements


def _name(function: Any) -> str:
    packet = getattr(function, "overloadpacket", None)
    return packet.__name__ if packet is not None else ""


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
