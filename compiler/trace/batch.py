"""What a batch holds, learnt from two calls of the user's inputs function with different sizes.

A tensor whose dimension 0 follows the number of samples is split into microbatches. A tensor that
does not follow it (a table, a mask over positions) goes whole to every microbatch. A flag or number
that stays the same is a constant of the plan. What is in containers (dicts, lists, dataclasses) is
taken by itself, under the container's name and the key: `batch.pixels.0`.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from pipecut.compiler.inputs.job import Job
from pipecut.compiler.trace.lengths import NO_LENGTHS, Lengths, learn_lengths, refuse_fixed
from pipecut.compiler.trace.lower.source import importable_path
from pipecut.errors import TraceError, UserFileError
from pipecut.model.batch.nesting import (
    TakenApart,
    different_nesting,
    kind_of,
    members_of,
    take_apart,
)
from pipecut.model.functions import bound_inputs, calling, find_function
from pipecut.model.precision import cast_inputs
from pipecut.plan.schema import ITEM_BYTES, Constant, Container, same_constant


@dataclass(frozen=True)
class ExampleBatch:
    """A batch of so many samples, by the user's names; tensors in `whole` are not split.

    `twins` are names under which the inputs function returned a tensor once more, each with the
    first name of that tensor: the graph has inputs of their own for them, the model has not.
    """

    samples: int
    tensors: dict[str, torch.Tensor]
    whole: frozenset[str]
    constants: dict[str, Constant]
    lengths: Lengths = NO_LENGTHS
    nesting: dict[str, Container] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of samples as `batch`, and its lengths by name."""
        lengths = {n: self.tensors[of].shape[at] for n, (of, at) in self.lengths.places.items()}
        return {"batch": self.samples, **lengths}

    def followed(self, name: str) -> dict[int, str]:
        """The sizes that a tensor's dimensions follow: `batch`, or a length's name."""
        return {**({} if name in self.whole else {0: "batch"}), **self.lengths.of(name)}


@dataclass(frozen=True)
class _Call:
    """What the inputs function returned for a number of samples."""

    samples: int
    batch: TakenApart


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
    for entry in _entries(_at_line(inputs, function), first, second):
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
        other = _called(inputs, function, samples, **at).leaves
        cast = cast_inputs({name: other[name] for name in tensors}, job.spec.precision)
    nesting, twins = first.batch.nesting, _twins(first.batch.leaves)
    return ExampleBatch(samples, cast, frozenset(whole), constants, lengths, nesting, twins)


def _twins(leaves: Mapping[str, Any]) -> dict[str, str]:
    """Names of a tensor that has a name before, each with its first name."""
    first: dict[int, str] = {}
    for name, value in leaves.items():
        if isinstance(value, torch.Tensor):
            first.setdefault(id(value), name)
    return {n: first[id(v)] for n, v in leaves.items() if first.get(id(v), n) != n}


def _at_line(inputs: str, function: Callable[..., Any]) -> str:
    """The inputs function by name, and where it is defined."""
    while isinstance(function, partial):
        function = function.func
    code = getattr(inspect.unwrap(function), "__code__", None)
    line = f" ({importable_path(code.co_filename)}:{code.co_firstlineno})" if code else ""
    return f"{inputs}{line}"


def _entries(inputs: str, first: _Call, second: _Call) -> list[_Entry]:
    first_leaves, second_leaves = first.batch.leaves, second.batch.leaves
    for name, difference in different_nesting(first.batch.nesting, second.batch.nesting):
        raise TraceError(
            f"'{name}' of {inputs} is {difference}, for {first.samples} samples and for "
            f"{second.samples}: return a tensor with the samples in dimension 0, as torch.stack "
            "makes it, and take it apart in forward"
        )
    if list(first_leaves) != list(second_leaves):
        different = sorted(set(first_leaves) ^ set(second_leaves)) or list(first_leaves)
        raise TraceError(
            f"{inputs} returns '{different[0]}' for some numbers of samples only; "
            "return the same names, in one order"
        )
    return [
        _Entry(name, inputs, first.samples, value, second.samples, second_leaves[name])
        for name, value in first_leaves.items()
    ]


def _another_size(inputs: str, function: Callable[..., Any], samples: int) -> _Call:
    """One sample more; twice as many where the function cannot make that many."""
    try:
        return _Call(samples + 1, _called(inputs, function, samples + 1))
    except UserFileError:
        return _Call(2 * samples, _called(inputs, function, 2 * samples))


def _called(inputs: str, function: Callable[..., Any], samples: int, **lengths: int) -> TakenApart:
    given = ", ".join([str(samples), *(f"{name}={size}" for name, size in lengths.items())])
    with torch.random.fork_rng(devices=[]), calling(f"{inputs}({given})"):
        batch = function(samples, **lengths)
    members = {} if kind_of(batch) in (None, "list", "tuple") else members_of(batch)
    for key in members:
        if not isinstance(key, str):
            raise TraceError(
                f"{inputs} has the key {key!r}; the model is called as module(**batch), "
                "so keys must be strings"
            )
    apart = take_apart(members, _at_line(inputs, function))
    if not any(isinstance(value, torch.Tensor) for value in apart.leaves.values()):
        kind = type(batch).__name__
        raise TraceError(
            f"{inputs} returned a {kind}; it must return a dict of tensors, dimension 0 the sample"
        )
    return apart


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
            else f"{entry.name}.item()"
            if kind.startswith("numpy.")
            else "each of its tensors under a name of its own"
        )
        raise TraceError(f"{entry} is a {kind}, which a plan cannot split; return {remedy}")
    if not same_constant(value, other):
        remedy = "return it as a tensor, or compute it in forward from a tensor's shape"
        if isinstance(value, str):
            remedy = "a plan carries no text: return numbers for it, as a tokenizer makes them"
        raise TraceError(
            f"{entry} is {value!r} for {entry.samples} samples and {other!r} for "
            f"{entry.other_samples}, and a plan holds one value; {remedy}"
        )
