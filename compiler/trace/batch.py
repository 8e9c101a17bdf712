"""What a batch holds, learnt from two calls of the user's inputs function with different sizes.

A tensor whose dimension 0 follows the number of samples is split into microbatches. A tensor that
does not follow it (a table, a mask over positions) goes whole to every microbatch. A flag or number
that stays the same is a constant of the plan.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pipecut.compiler.inputs.job import Job
from pipecut.compiler.trace.lengths import NO_LENGTHS, Lengths, learn_lengths, refuse_fixed
from pipecut.errors import TraceError, UserFileError
from pipecut.model.functions import bound_inputs, calling, find_function
from pipecut.model.precision import cast_inputs
from pipecut.plan.schema import ITEM_BYTES, Constant


@dataclass(frozen=True)
class ExampleBatch:
    """A batch of so many samples, by the user's names; tensors in `whole` are not split."""

    samples: int
    tensors: dict[str, torch.Tensor]
    whole: frozenset[str]
    constants: dict[str, Constant]
    lengths: Lengths = NO_LENGTHS

    def followed(self, name: str) -> dict[int, str]:
        """The sizes that a tensor's dimensions follow: `batch`, or a length's name."""
        return {**({} if name in self.whole else {0: "batch"}), **self.lengths.of(name)}


@dataclass(frozen=True)
class _Call:
    """What the inputs function returned for a number of samples."""

    samples: int
    batch: dict[str, Any]


@dataclass(frozen=True)
class _Entry:
    """One name of a batch, with its value for two numbers of samples. `inputs` is the function."""

    name: str
    inputs: str
    samples: int
    value: Any
    other_samples: int
    other_value: Any

    def __str__(self) -> str:
        return f"'{self.name}' of {self.inputs}"

    @property
    def shapes(self) -> str:
        """Both shapes, for messages."""
        first, second = list(self.value.shape), list(self.other_value.shape)
        return f"{first} for {self.samples} samples, {second} for {self.other_samples}"


def example_batch(job: Job, samples: int, at: Mapping[str, int] | None = None) -> ExampleBatch:
    """The job's inputs for so many samples, of the longest lengths, or of the lengths `at`.

    Raises TraceError for what no batch can hold.
    """
    inputs = job.spec.inputs
    given = job.spec.model.args
    function = bound_inputs(find_function(inputs, job.folders, str(job.path)), given)
    first = _Call(samples, _called(inputs, function, samples))
    second = _another_size(inputs, function, samples)
    tensors, whole, constants = {}, set(), {}
    for entry in _entries(inputs, first, second):
        if isinstance(entry.value, torch.Tensor):
            _check_tensor(entry)
            if not _is_split(entry):
                whole.add(entry.name)
            tensors[entry.name] = entry.value.detach().cpu().clone()
        else:
            _check_constant(entry)
            constants[entry.name] = entry.value
    if whole == set(tensors):
        raise TraceError(
            f"no tensor of {inputs} has the number of samples as its dimension 0 ({samples} and "
            f"{second.samples} samples were asked for), so a batch cannot be split; "
            "put the samples in dimension 0"
        )
    cast = cast_inputs(tensors, job.spec.precision)
    lengths = NO_LENGTHS
    if job.spec.lengths != "fixed":
        call = partial(_called, inputs, function, samples)
        lengths = learn_lengths(inputs, function, first.batch, call)
        if job.spec.lengths == "dynamic":
            refuse_fixed(inputs, lengths)
    if at:
        other = _called(inputs, function, samples, **at)
        cast = cast_inputs({name: other[name] for name in tensors}, job.spec.precision)
    return ExampleBatch(samples, cast, frozenset(whole), constants, lengths)


def _entries(inputs: str, first: _Call, second: _Call) -> list[_Entry]:
    if list(first.batch) != list(second.batch):
        different = sorted(set(first.batch) ^ set(second.batch)) or list(first.batch)
        raise TraceError(
            f"{inputs} returns '{different[0]}' for some numbers of samples only; "
            "return the same names, in one order"
        )
    return [
        _Entry(name, inputs, first.samples, value, second.samples, second.batch[name])
        for name, value in first.batch.items()
    ]


def _another_size(inputs: str, function: Callable[..., Any], samples: int) -> _Call:
    """One sample more; twice as many where the function cannot make that many."""
    try:
        return _Call(samples + 1, _called(inputs, function, samples + 1))
    except UserFileError:
        return _Call(2 * samples, _called(inputs, function, 2 * samples))


def _called(
    inputs: str, function: Callable[..., Any], samples: int, **lengths: int
) -> dict[str, Any]:
    given = ", ".join([str(samples), *(f"{name}={size}" for name, size in lengths.items())])
    with torch.random.fork_rng(devices=[]), calling(f"{inputs}({given})"):
        batch = function(samples, **lengths)
    if not isinstance(batch, dict) or not any(
        isinstance(value, torch.Tensor) for value in batch.values()
    ):
        kind = type(batch).__name__
        raise TraceError(
            f"{inputs} returned a {kind}; it must return a dict of tensors, dimension 0 the sample"
        )
    for key in batch:
        if not isinstance(key, str):
            raise TraceError(
                f"{inputs} has the key {key!r}; the model is called as module(**batch), "
                "so keys must be strings"
            )
    return batch


def _check_tensor(entry: _Entry) -> None:
    tensor: torch.Tensor = entry.value
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise TraceError(
            f"{entry} is a {kind} tensor, which a plan cannot split; "
            f"return it dense, as {entry.name}.to_dense()"
        )
    if tensor.is_meta:
        raise TraceError(f"{entry} is on meta, where it has no values; make it on the CPU")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in ITEM_BYTES:
        raise TraceError(
            f"{entry} is {dtype}, which a plan cannot carry; return it as {_closest(dtype)}"
        )


def _closest(dtype: str) -> str:
    if dtype.startswith("complex"):
        return "complex64"
    return "float32" if dtype.startswith("float") else "int64"


def _is_split(entry: _Entry) -> bool:
    """Whether dimension 0 is the sample; False where no dimension follows the batch."""
    if not isinstance(entry.other_value, torch.Tensor):
        kind = type(entry.other_value).__name__
        raise TraceError(
            f"{entry} is a tensor for {entry.samples} samples and a {kind} for "
            f"{entry.other_samples}"
        )
    if entry.value.dim() != entry.other_value.dim():
        raise TraceError(
            f"{entry} is {entry.shapes}; return the same number of dimensions for every batch"
        )
    sizes = list(zip(entry.value.shape, entry.other_value.shape, strict=True))
    changed = [dimension for dimension, (size, other) in enumerate(sizes) if size != other]
    following = [d for d in changed if sizes[d] == (entry.samples, entry.other_samples)]
    if changed and not changed == following == [0]:
        raise _cannot_be_split(entry, changed, following)
    return bool(changed)


def _cannot_be_split(entry: _Entry, changed: list[int], following: list[int]) -> TraceError:
    """Why a tensor is neither whole nor split along dimension 0.

    `changed` are dimensions that differ between the two batches, `following` those among them that
    are the number of samples.
    """
    if changed != following:
        odd = next(dimension for dimension in changed if dimension not in following)
        return TraceError(
            f"dimension {odd} of {entry} is neither fixed nor the number of samples "
            f"({entry.shapes}); pad it to one size, or return samples in dimension 0, "
            "as [samples, ...], and reshape it in forward"
        )
    if len(following) > 1:
        return TraceError(
            f"dimensions {following} of {entry} all follow the batch ({entry.shapes}), so its "
            "microbatches are no slices of it; compute it in forward from tensors that have "
            "samples in dimension 0 only"
        )
    (dimension,) = following
    transposed = f"{entry.name}.transpose(0, {dimension})"
    return TraceError(
        f"dimension {dimension} of {entry} follows the batch ({entry.shapes}), and a batch is "
        f"split along dimension 0; return {transposed}, and transpose it back in forward"
    )


def _check_constant(entry: _Entry) -> None:
    value, other = entry.value, entry.other_value
    if type(value) not in (type(None), bool, int, float, str):
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        remedy = (
            f"torch.from_numpy({entry.name})"
            if kind == "numpy.ndarray"
            else "each of its tensors under a name of its own"
        )
        raise TraceError(f"{entry} is a {kind}, which a plan cannot split; return {remedy}")
    if type(value) is not type(other) or value != other:
        raise TraceError(
            f"{entry} is {value!r} for {entry.samples} samples and {other!r} for "
            f"{entry.other_samples}, and a plan holds one value; "
            "return it as a tensor, or compute it in forward from a tensor's shape"
        )
