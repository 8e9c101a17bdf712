"""A global batch as microbatches: what is split along its samples, and what each gets whole."""

from collections.abc import Mapping
from typing import Any

import torch

from pipecut.errors import RunError
from pipecut.model.precision import cast_inputs
from pipecut.plan.schema import Plan, Tensor


def checked_batch(plan: Plan, batch: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], int]:
    """The batch's tensors in the plan's precision, and its number of samples.

    Raises RunError that names what is wrong.
    """
    _check_names(plan, batch)
    expected = {tensor.name: tensor for tensor in plan.inputs}
    tensors = cast_inputs({name: batch[name] for name in expected}, plan.model.precision)
    count = samples_in(plan, tensors)
    for name, tensor in tensors.items():
        shape = shape_in_batch(expected[name], count)
        if list(tensor.shape) != shape or str(tensor.dtype) != f"torch.{expected[name].dtype}":
            raise RunError(
                f"input '{name}' is {tensor.dtype}{list(tensor.shape)}, "
                f"the plan takes torch.{expected[name].dtype}{shape} for a batch of {count}"
            )
    return tensors, count


def _check_names(plan: Plan, batch: Mapping[str, Any]) -> None:
    expected = [tensor.name for tensor in plan.inputs]
    missing = ", ".join(name for name in expected if name not in batch)
    extra = ", ".join(name for name in batch if name not in expected and name not in plan.constants)
    if missing or extra:
        problem = f"misses {missing}" if missing else f"has {extra}, which the plan does not know"
        raise RunError(f"the batch {problem}; the plan was compiled for {', '.join(expected)}")
    for name, constant in plan.constants.items():
        value = batch.get(name, constant)
        if type(value) is not type(constant) or value != constant:
            raise RunError(
                f"input '{name}' is {value!r}, the plan was compiled for {constant!r}; "
                "compile it for that value"
            )


def shape_in_batch(tensor: Tensor, count: int) -> list[int]:
    """The shape of an input in a batch of that many samples."""
    sizes = tensor.sizes(count)
    return sizes if tensor.whole else [count, *sizes[1:]]


def samples_in(plan: Plan, batch: Mapping[str, Any]) -> int:
    """Samples of a batch, which may miss inputs. Raises RunError where tensors disagree."""
    names_by_count: dict[int, list[str]] = {}
    for expected in plan.inputs:
        tensor = batch.get(expected.name)
        if isinstance(tensor, torch.Tensor) and not expected.whole:
            count = tensor.shape[0] if tensor.dim() else 0
            names_by_count.setdefault(count, []).append(expected.name)
    if len(names_by_count) > 1:
        counts = "; ".join(f"{n} in {', '.join(names)}" for n, names in names_by_count.items())
        raise RunError(
            "the batch's tensors disagree on the number of samples, their dimension 0: " + counts
        )
    return next(iter(names_by_count), 0)


def count_microbatches(plan: Plan, count: int) -> int:
    """Microbatches of so many samples, of which the last may be smaller."""
    return -(-count // plan.batch.microbatch)


def split(plan: Plan, name: str, tensor: torch.Tensor, count: int) -> list[torch.Tensor]:
    """An input's part in each microbatch of a batch of `count` samples.

    The same tensor for each where the input has no dimension of samples.
    """
    if any(expected.name == name and expected.whole for expected in plan.inputs):
        return [tensor] * count_microbatches(plan, count)
    return list(torch.split(tensor, plan.batch.microbatch))


def microbatches(plan: Plan, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every microbatch as the unsplit model takes it, with the plan's constants. Raises RunError.

    Each has tensors of its own, as in a pipeline: what the model writes to them reaches neither the
    batch nor another microbatch.
    """
    tensors, count = checked_batch(plan, batch)
    parts = {name: split(plan, name, tensor, count) for name, tensor in tensors.items()}
    return [
        {**{name: part[number].clone() for name, part in parts.items()}, **plan.constants}
        for number in range(count_microbatches(plan, count))
    ]
