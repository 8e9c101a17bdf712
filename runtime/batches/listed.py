"""A batch given as lists: a tensor for each microbatch, of its own length."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pipecut.errors import RunError
from pipecut.plan.schema import Plan


def listed_microbatches(plan: Plan, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of a batch whose inputs are lists; what is no list goes to each microbatch whole.

    Raises RunError where lists are of different lengths, or an input that is split is no list.
    """
    whole = {tensor.name for tensor in plan.inputs if tensor.whole} | plan.constants.keys()
    lists = {name: value for name, value in batch.items() if isinstance(value, list | tuple)}
    counts = {len(value) for value in lists.values()}
    if len(counts) > 1:
        found = ", ".join(f"{len(value)} of {name}" for name, value in lists.items())
        raise RunError(f"the batch lists tensors for different numbers of microbatches: {found}")
    for name, value in batch.items():
        if name not in lists and name not in whole:
            raise RunError(
                f"input '{name}' is one tensor beside lists of {', '.join(lists)}; give a tensor "
                "for each microbatch of it, too"
            )
        _check_dimensions(plan, name, value)
    for number in range(counts.pop()):
        yield {name: lists[name][number] if name in lists else batch[name] for name in batch}


def _check_dimensions(plan: Plan, name: str, value: Any) -> None:
    """Raises RunError for samples in place of microbatches."""
    expected = next((tensor for tensor in plan.inputs if tensor.name == name), None)
    if expected is None or isinstance(value, torch.Tensor):
        return
    for number, tensor in enumerate(value):
        if isinstance(tensor, torch.Tensor) and tensor.dim() == len(expected.shape) - 1:
            raise RunError(
                f"tensor {number} of input '{name}' has {tensor.dim()} dimensions, as one sample "
                f"has; a list has a tensor of {len(expected.shape)} for each microbatch"
            )
