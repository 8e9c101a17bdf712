"""Which dimensions of a batch are lengths: learnt by calling the inputs function with others.

A parameter of the inputs function that is called `length`, or ends in `_length`, is a length, and
its default is the longest that the plan is made for. A dimension follows a length where it has that
size for both.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pipecut.compiler.names import is_length
from pipecut.errors import TraceError
from pipecut.model.batch.nesting import TakenApart
from pipecut.plan.schema import same_constant

# The least that a dimension is traced for: torch.export takes 0 and 1 as constants.
SHORTEST = 2


@dataclass(frozen=True)
class Lengths:
    """The longest of each length, and the dimensions of each tensor that follow one, by number.

    `refused` says why the inputs' lengths cannot be followed, and is "" where they can.
    """

    longest: dict[str, int] = field(default_factory=dict)
    dimensions: dict[str, dict[int, str]] = field(default_factory=dict)
    refused: str = ""

    def of(self, tensor: str) -> Mapping[int, str]:
        """A tensor's dimensions that follow a length."""
        return self.dimensions.get(tensor, {})

    @property
    def places(self) -> dict[str, tuple[str, int]]:
        """For each length a tensor that has it, and in which dimension."""
        return {
            length: (tensor, dimension)
            for tensor, followed in self.dimensions.items()
            for dimension, length in followed.items()
        }


NO_LENGTHS = Lengths()


def learn_lengths(
    inputs: str, function: Callable[..., Any], batch: TakenApart, call: Callable[..., TakenApart]
) -> Lengths:
    """The lengths of the function `inputs`, whose result for its defaults is `batch`.

    `call(name=size)` calls it for another length. Raises TraceError for a length without a default.
    """
    longest = _longest(inputs, function)
    dimensions: dict[str, dict[int, str]] = {name: {} for name in batch.leaves}
    for length, most in longest.items():
        other_size = other_length(most)
        other = call(**{length: other_size})
        if other.nesting != batch.nesting or list(other.leaves) != list(batch.leaves):
            return Lengths(refused=f"{inputs} returns other names for another {length}")
        for name, value in batch.leaves.items():
            sizes = length, most, other_size
            refused = _follow(dimensions[name], value, other.leaves[name], sizes)
            if refused:
                return Lengths(refused=f"'{name}' of {inputs} {refused}")
        if not any(length in followed.values() for followed in dimensions.values()):
            return Lengths(refused=f"no dimension of what {inputs} returns follows its {length}")
    return Lengths(longest, dimensions)


def refuse_fixed(inputs: str, lengths: Lengths) -> None:
    """Raises TraceError where `lengths: dynamic` is asked for and no length can be followed."""
    if lengths.refused:
        raise TraceError(f"lengths: dynamic: {lengths.refused}; pad it, or write lengths: fixed")
    if not lengths.longest:
        raise TraceError(
            f"lengths: dynamic: {inputs} must show which dimensions follow the length; give it a "
            "second parameter with the longest as its default, as def batch(samples, length=512)"
        )


def other_length(longest: int) -> int:
    """A shorter length than the longest one, to learn what follows it."""
    return max(SHORTEST, longest // 2)


def _longest(inputs: str, function: Callable[..., Any]) -> dict[str, int]:
    try:
        parameters = list(inspect.signature(function).parameters.values())[1:]
    except (TypeError, ValueError):
        return {}
    longest = {}
    for parameter in parameters:
        if not is_length(parameter.name):
            continue
        if type(parameter.default) is not int:
            raise TraceError(
                f"{inputs} takes a {parameter.name} without a default; give it the longest that "
                f"the plan is to take, as {parameter.name}=512"
            )
        # One that is too short to vary is a number like others.
        if parameter.default > SHORTEST:
            longest[parameter.name] = parameter.default
    return longest


def _follow(followed: dict[int, str], value: Any, other: Any, sizes: tuple[str, int, int]) -> str:
    """Note a tensor's dimensions that follow a length; why it cannot, or "".

    `sizes` are the length's name, its size for `value` and that for `other`.
    """
    length, most, other_size = sizes
    if not isinstance(value, torch.Tensor) or not isinstance(other, torch.Tensor):
        return "" if same_constant(value, other) else f"is no tensor of {length}"
    if value.dim() != other.dim():
        return f"has another number of dimensions for another {length}"
    for dimension, (size, changed) in enumerate(zip(value.shape, other.shape, strict=True)):
        if size == changed:
            continue
        if (size, changed) != (most, other_size) or dimension in followed:
            return (
                f"has {size} in dimension {dimension} for a {length} of {most}, and {changed} for "
                f"{other_size}: neither fixed nor the {length}"
            )
        followed[dimension] = length
    return ""
