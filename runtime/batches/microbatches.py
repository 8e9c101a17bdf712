"""A global batch as microbatches: what is split along its samples, and what each gets whole."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipecut.errors import RunError
from pipecut.model.precision import cast_inputs
from pipecut.plan.schema import Plan, Sizes, Tensor, same_constant
from pipecut.runtime.batches.grouping import samples_per_microbatch, work_of
from pipecut.runtime.batches.listed import listed_microbatches
from pipecut.runtime.batches.order import balanced
from pipecut.runtime.health.rank_errors import naming_errors


@dataclass(frozen=True)
class Microbatch:
    """A microbatch's tensors by name, and its sizes: `batch`, its samples, and lengths by name."""

    tensors: dict[str, torch.Tensor]
    sizes: dict[str, int]


def divided(
    plan: Plan, batch: Mapping[str, Any], wanted: int = 0, needed: Collection[str] | None = None
) -> list[Microbatch]:
    """The microbatches of a global batch, in the plan's precision; see `samples_per_microbatch`.

    All inputs are checked; those of a batch of tensors are split where they are `needed`. Raises
    RunError.
    """
    if any(isinstance(value, list | tuple) for value in batch.values()):
        listed = [
            _checked_microbatch(plan, number, part)
            for number, part in enumerate(listed_microbatches(plan, batch, wanted))
        ]
        _refuse_few(plan, [part.sizes["batch"] for part in listed])
        return _ordered(plan, listed, wanted)
    tensors, sizes = checked_batch(plan, batch)
    counts = samples_per_microbatch(plan, sizes["batch"], wanted)
    _refuse_few(plan, counts)
    parts = {
        name: split(plan, name, tensor, counts)
        for name, tensor in tensors.items()
        if needed is None or name in needed
    }
    return [
        Microbatch({name: part[n] for name, part in parts.items()}, {**sizes, "batch": count})
        for n, count in enumerate(counts)
    ]


def _refuse_few(plan: Plan, counts: Sequence[int]) -> None:
    """Raises RunError for a microbatch of fewer samples than the plan's graph holds for."""
    least = plan.batch.least_samples
    if counts and min(counts) < least:
        why = next((note for note in plan.notes if note.startswith("a microbatch needs")), "")
        raise RunError(
            f"microbatch {counts.index(min(counts))} of the batch has {min(counts)} sample, the "
            f"plan takes {least} or more{f' ({why})' if why else ''}; leave the last batch out, as "
            "a DataLoader's drop_last does, or compile for another microbatch"
        )


def _ordered(plan: Plan, parts: list[Microbatch], wanted: int) -> list[Microbatch]:
    """In the order in which they run; a replica that reads its own part has all of them."""
    if plan.batch.order == "as-given":
        return parts
    works = [work_of(plan, part.sizes) for part in parts]
    replicas = wanted // plan.microbatches if wanted else plan.replicas
    return balanced(parts, works, replicas, plan.batch.rising)


def _checked_microbatch(plan: Plan, number: int, part: Mapping[str, Any]) -> Microbatch:
    """One that the batch lists. Raises RunError."""
    with naming_errors(f"microbatch {number}"):
        tensors, sizes = checked_batch(plan, part)
        most = plan.batch.most_samples(sizes)
        if not 0 < sizes["batch"] <= most:
            raise RunError(
                f"it has {sizes['batch']} samples; the plan's have up to {most}, for which memory "
                "is planned"
            )
    return Microbatch(tensors, sizes)


def checked_batch(
    plan: Plan, batch: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """The batch's tensors in the plan's precision, and its sizes.

    Raises RunError that names what is wrong.
    """
    _check_names(plan, batch)
    expected = {tensor.name: tensor for tensor in plan.inputs}
    tensors = cast_inputs({name: batch[name] for name in expected}, plan.model.precision)
    sizes = sizes_in(plan, tensors)
    for name, tensor in tensors.items():
        shape = shape_in_batch(expected[name], sizes)
        if list(tensor.shape) != shape or str(tensor.dtype) != f"torch.{expected[name].dtype}":
            lengths = "".join(f", {name} {sizes[name]}" for name in plan.batch.lengths)
            raise RunError(
                f"input '{name}' is {tensor.dtype}{list(tensor.shape)}, the plan takes "
                f"torch.{expected[name].dtype}{shape} for a batch of {sizes['batch']}{lengths}"
            )
    return tensors, sizes


def _check_names(plan: Plan, batch: Mapping[str, Any]) -> None:
    expected = [tensor.name for tensor in plan.inputs]
    missing = ", ".join(name for name in expected if name not in batch)
    extra = ", ".join(name for name in batch if name not in expected and name not in plan.constants)
    if missing or extra:
        problem = f"misses {missing}" if missing else f"has {extra}, which the plan does not know"
        raise RunError(f"the batch {problem}; the plan was compiled for {', '.join(expected)}")
    for name, constant in plan.constants.items():
        if name not in batch:
            # Left out, the model may take another value: a default of its own.
            raise RunError(
                f"the batch misses '{name}', which is {constant!r} in the plan; give that, "
                f"{_given(plan, name, constant)}, or compile for a batch without it"
            )
        if not same_constant(batch[name], constant):
            raise RunError(
                f"input '{name}' is {batch[name]!r}, the plan was compiled for {constant!r}; "
                "compile it for that value"
            )


def _given(plan: Plan, name: str, constant: Any) -> str:
    """How a constant is written in a call, or in the containers that it is in."""
    if "." in name and name.partition(".")[0] in plan.nesting:
        return f"in '{name.rpartition('.')[0]}'"
    return f"as {name}={constant!r}"


def shape_in_batch(tensor: Tensor, sizes: Sizes) -> list[int]:
    """The shape of an input in a batch of such sizes."""
    shape = tensor.sizes(sizes)
    return shape if tensor.whole else [sizes["batch"], *shape[1:]]


def sizes_in(plan: Plan, batch: Mapping[str, Any]) -> dict[str, int]:
    """Samples and lengths of a batch, which may miss inputs; of unknown lengths the longest.

    Raises RunError where tensors disagree, or a length is not one that the plan takes.
    """
    sizes = plan.batch.sizes(samples_in(plan, batch))
    for length, allowed in plan.batch.lengths.items():
        names_by_size: dict[int, list[str]] = {}
        for expected in plan.inputs:
            tensor = batch.get(expected.name)
            if isinstance(tensor, torch.Tensor) and tensor.dim() == len(expected.shape):
                for size, planned in zip(tensor.shape, expected.shape, strict=True):
                    if planned == length:
                        names_by_size.setdefault(size, []).append(expected.name)
        if len(names_by_size) > 1:
            found = "; ".join(
                f"{size} in {', '.join(dict.fromkeys(names))}"
                for size, names in names_by_size.items()
            )
            raise RunError(f"the batch's tensors disagree on the {length}: {found}")
        sizes[length] = next(iter(names_by_size), allowed.longest)
        _check_length(plan, length, sizes[length])
    return sizes


def _check_length(plan: Plan, length: str, size: int) -> None:
    allowed = plan.batch.lengths[length]
    if size > allowed.longest:
        raise RunError(
            f"a {length} of {size} is more than the {allowed.longest} whose memory the plan has; "
            f"cut it, or compile with {length}={size} as the default of {plan.model.inputs}"
        )
    if size < allowed.shortest:
        raise RunError(
            f"a {length} of {size} is less than the {allowed.shortest} that the model was traced "
            "for; pad it, or group it with longer samples"
        )


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


def count_samples(plan: Plan, batch: Mapping[str, Any]) -> int:
    """Samples of a batch of tensors, or of lists of microbatches or samples. Raises RunError."""
    for expected in plan.inputs:
        listed = batch.get(expected.name)
        if isinstance(listed, list | tuple) and not expected.whole:
            dimensions = len(expected.shape)
            return sum(1 if t.dim() < dimensions else t.shape[0] for t in listed)
    return samples_in(plan, batch)


def split(plan: Plan, name: str, tensor: torch.Tensor, counts: Sequence[int]) -> list[torch.Tensor]:
    """An input's part in each microbatch of so many samples.

    The same tensor for each where the input has no dimension of samples.
    """
    if any(expected.name == name and expected.whole for expected in plan.inputs):
        return [tensor] * len(counts)
    return list(torch.split(tensor, list(counts)))


def microbatches(plan: Plan, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every microbatch as the unsplit model takes it, with the plan's constants. Raises RunError.

    Each has tensors of its own, as in a pipeline: what the model writes to them reaches neither the
    batch nor another microbatch.
    """
    return [
        {**{name: part.clone() for name, part in each.tensors.items()}, **plan.constants}
        for each in divided(plan, batch)
    ]
