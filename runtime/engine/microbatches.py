"""A global batch -> microbatches: what is split along its samples, what each gets whole, what must stay as compiled."""

from typing import Any

import torch

from pipecut.errors import RunError
from pipecut.model.precision import cast_inputs
from pipecut.plan.schema import Plan, Tensor


def checked_batch(plan: Plan, batch: dict[str, Any]) -> tuple[dict[str, torch.Tensor], int]:
    """The batch's tensors in the plan's precision, and its number of samples. Raises RunError that names what is wrong."""
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


def _check_names(plan: Plan, batch: dict[str, Any]) -> None:
    expected = [tensor.name for tensor in plan.inputs]
    missing = [name for name in expected if name not in batch]
    extra = [name for name in batch if name not in expected and name not in plan.constants]
    if missing or extra:
        problem = (
            f"misses {', '.join(missing)}"
            if missing
            else f"has {', '.join(extra)}, which the plan does not know"
        )
        raise RunError(f"the batch {problem}; the plan was compiled for {', '.join(expected)}")
    for name, value in plan.constants.items():
        if name in batch and (type(batch[name]) is not type(value) or batch[name] != value):
            raise RunError(
                f"input '{name}' is {batch[name]!r}, the plan was compiled for {value!r}; compile it for that value"
            )


def shape_in_batch(tensor: Tensor, count: int) -> list[int]:
    """The shape of an input in a batch of that many samples."""
    sizes = tensor.sizes(count)
    return sizes if tensor.whole else [count, *sizes[1:]]


def samples_in(plan: Plan, batch: dict[str, Any]) -> int:
    """Samples of a batch, in which inputs may be missing. Raises RunError where tensors disagree."""
    sizes: dict[int, list[str]] = {}
    for tensor in plan.inputs:
        given = batch.get(tensor.name)
        if isinstance(given, torch.Tensor) and not tensor.whole:
            sizes.setdefault(given.shape[0] if given.dim() else 0, []).append(tensor.name)
    if len(sizes) > 1:
        said = "; ".join(f"{count} in {', '.join(names)}" for count, names in sizes.items())
        raise RunError(
            f"the batch's tensors disagree on the number of samples, their dimension 0: {said}"
        )
    return next(iter(sizes), 0)


def split(plan: Plan, name: str, tensor: torch.Tensor, count: int) -> list[torch.Tensor]:
    """What each of the microbatches of a batch of that many samples has of an input."""
    size = plan.batch.microbatch
    if any(one.name == name and one.whole for one in plan.inputs):
        return [tensor] * -(-count // size)
    return list(torch.split(tensor, size))


def microbatches(plan: Plan, batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Every microbatch as the unsplit model takes it, with the plan's constants. Raises RunError.

    Each has tensors of its own, as in a pipeline: what the model writes to them reaches neither the batch nor another one.
    """
    tensors, count = checked_batch(plan, batch)
    pieces = {name: split(plan, name, tensor, count) for name, tensor in tensors.items()}
    return [
        {**{name: own[number].clone() for name, own in pieces.items()}, **plan.constants}
        for number in range(-(-count // plan.batch.microbatch))
    ]
