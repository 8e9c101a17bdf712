"""What a batch holds, learnt from two calls of the user's inputs function with different numbers of samples.

A tensor whose dimension 0 follows the number of samples is split into microbatches. One that does not follow it (a table,
a mask over positions) goes whole to every microbatch. A flag or number that stays the same is a constant of the plan.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pipecut.compiler.inputs.job import Job
from pipecut.errors import TraceError, UserFileError
from pipecut.model.functions import calling, find_function
from pipecut.model.precision import cast_inputs
from pipecut.plan.schema import ITEM_BYTES, Constant


@dataclass(frozen=True)
class ExampleBatch:
    """An example of so many samples by the user's names: its tensors, which of them are `whole`, and its constants."""

    samples: int
    tensors: dict[str, torch.Tensor]
    whole: frozenset[str]
    constants: dict[str, Constant]


def example_batch(job: Job, samples: int) -> ExampleBatch:
    """The job's inputs for that many samples. Raises TraceError, by name, for what cannot be part of a batch."""
    name = job.spec.inputs
    inputs = find_function(name, job.folders, str(job.path))
    first = _called(name, inputs, samples)
    more, second = _another_size(name, inputs, samples)
    if list(first) != list(second):
        different = sorted(set(first) ^ set(second)) or list(first)
        raise TraceError(
            f"{name} gives '{different[0]}' for some numbers of samples alone; give the same names, in one order"
        )
    tensors, whole, constants = {}, set(), {}
    for key, value in first.items():
        if isinstance(value, torch.Tensor):
            _check_tensor(name, key, value)
            if not _is_split(name, key, (samples, value), (more, second[key])):
                whole.add(key)
            tensors[key] = value.detach().cpu().clone()
        else:
            _check_constant(name, key, (samples, value), (more, second[key]))
            constants[key] = value
    if whole == set(tensors):
        raise TraceError(
            f"no tensor of {name} has the number of samples as its dimension 0 ({samples} and {more} samples were asked for), "
            "so a batch cannot be split; put the samples in dimension 0"
        )
    return ExampleBatch(
        samples, cast_inputs(tensors, job.spec.precision), frozenset(whole), constants
    )


def _another_size(
    name: str, inputs: Callable[..., Any], samples: int
) -> tuple[int, dict[str, Any]]:
    """One sample more; twice as many where the function cannot make that many."""
    try:
        return samples + 1, _called(name, inputs, samples + 1)
    except UserFileError:
        return 2 * samples, _called(name, inputs, 2 * samples)


def _called(name: str, inputs: Callable[..., Any], samples: int) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]), calling(f"{name}({samples})"):
        batch = inputs(samples)
    if not isinstance(batch, dict) or not any(
        isinstance(value, torch.Tensor) for value in batch.values()
    ):
        raise TraceError(
            f"{name} returned a {type(batch).__name__}; it must return a dict of tensors, dimension 0 the sample"
        )
    for key in batch:
        if not isinstance(key, str):
            raise TraceError(
                f"{name} has the key {key!r}; the model is called as module(**batch), so keys must be strings"
            )
    return batch


def _check_tensor(name: str, key: str, tensor: torch.Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise TraceError(
            f"'{key}' of {name} is a {kind} tensor, which a plan cannot split; give it dense, as {key}.to_dense()"
        )
    if tensor.is_meta:
        raise TraceError(
            f"'{key}' of {name} is on meta, where it has no values; make it on the CPU"
        )
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in ITEM_BYTES:
        raise TraceError(
            f"'{key}' of {name} is {dtype}, which a plan cannot carry; give it as {_closest(dtype)}"
        )


def _closest(dtype: str) -> str:
    return (
        "complex64"
        if dtype.startswith("complex")
        else "float32"
        if dtype.startswith("float")
        else "int64"
    )


def _is_split(
    name: str, key: str, first: tuple[int, torch.Tensor], second: tuple[int, Any]
) -> bool:
    """Whether dimension 0 is the sample; False where no dimension follows the batch."""
    (few, tensor), (more, other) = first, second
    if not isinstance(other, torch.Tensor):
        raise TraceError(
            f"'{key}' of {name} is a tensor for {few} samples and a {type(other).__name__} for {more}"
        )
    shapes = f"{list(tensor.shape)} for {few} samples, {list(other.shape)} for {more}"
    if tensor.dim() != other.dim():
        raise TraceError(
            f"'{key}' of {name} is {shapes}; give it the same number of dimensions for every batch"
        )
    pairs = list(zip(tensor.shape, other.shape, strict=True))
    changed = [d for d, (a, b) in enumerate(pairs) if a != b]
    following = [d for d in changed if pairs[d] == (few, more)]
    if not changed:
        return False
    if changed == following == [0]:
        return True
    if changed != following:
        other_dimension = next(d for d in changed if d not in following)
        raise TraceError(
            f"dimension {other_dimension} of '{key}' of {name} is neither fixed nor the number of samples ({shapes}); pad it to "
            "one size, or give it samples in dimension 0, as [samples, ...], and reshape it in forward"
        )
    if len(following) > 1:
        raise TraceError(
            f"dimensions {following} of '{key}' of {name} all follow the batch ({shapes}), so its microbatches are no slices of "
            "it; compute it in forward from tensors that have samples in dimension 0 alone"
        )
    raise TraceError(
        f"dimension {following[0]} of '{key}' of {name} follows the batch ({shapes}), and a batch is split along dimension 0; "
        f"give {key}.transpose(0, {following[0]}), and transpose it back in forward"
    )


def _check_constant(name: str, key: str, first: tuple[int, Any], second: tuple[int, Any]) -> None:
    (few, value), (more, other) = first, second
    if type(value) not in (type(None), bool, int, float, str):
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        remedy = (
            f"torch.from_numpy({key})"
            if kind == "numpy.ndarray"
            else "each of its tensors under a name of its own"
        )
        raise TraceError(f"'{key}' of {name} is a {kind}, which a plan cannot split; give {remedy}")
    if type(value) is not type(other) or value != other:
        raise TraceError(
            f"'{key}' of {name} is {value!r} for {few} samples and {other!r} for {more}, and a plan holds one value; "
            "give it as a tensor, or compute it in forward from a tensor's shape"
        )
