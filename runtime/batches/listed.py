"""A batch given as lists: a tensor for each microbatch, or for each sample, of its own length."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from pipecut.errors import RunError
from pipecut.plan.schema import Plan, Sizes, Tensor
from pipecut.runtime.batches.grouping import grouped

Parts = list[dict[str, Any]]


def listed_microbatches(plan: Plan, batch: Mapping[str, Any], wanted: int = 0) -> Parts:
    """The parts of a batch whose inputs are lists; what is no list goes to each microbatch whole.

    Tensors with a dimension less than the plan's are samples: they make up `wanted` microbatches,
    and are padded to the longest of their own, with the plan's `pad`. Raises RunError where lists
    do not belong together.
    """
    whole = {tensor.name for tensor in plan.inputs if tensor.whole} | plan.constants.keys()
    lists = {name: value for name, value in batch.items() if isinstance(value, list | tuple)}
    counts = {len(value) for value in lists.values()}
    if len(counts) > 1:
        found = ", ".join(f"{len(value)} of {name}" for name, value in lists.items())
        raise RunError(f"the batch lists different numbers of tensors: {found}")
    for name in batch:
        if name not in lists and name not in whole:
            raise RunError(
                f"input '{name}' is one tensor beside lists of {', '.join(lists)}; give a list "
                "of it, too"
            )
    parts = [
        {name: lists[name][number] if name in lists else batch[name] for name in batch}
        for number in range(counts.pop())
    ]
    split = {tensor.name: tensor for tensor in plan.inputs if not tensor.whole}
    sampled = [_is_sample(split, part) for part in parts]
    if not any(sampled):
        return parts
    if not all(sampled):
        raise RunError("the batch lists samples and microbatches; give a list of one of them")
    lengths = [_lengths_of(plan, split, sample) for sample in parts]
    return [
        _together(plan, split, [parts[number] for number in group])
        for group in grouped(plan, lengths, wanted)
    ]


def _is_sample(split: Mapping[str, Tensor], part: Mapping[str, Any]) -> bool:
    """Whether a part's tensors lack the dimension of samples. Raises RunError where some do."""
    lacking = {
        name: part[name].dim() == len(tensor.shape) - 1
        for name, tensor in split.items()
        if isinstance(part.get(name), torch.Tensor)
    }
    if len(set(lacking.values())) > 1:
        names = ", ".join(name for name, is_sample in lacking.items() if is_sample)
        raise RunError(
            f"the batch lists samples of {names} and microbatches of other inputs; a sample has a "
            "dimension less than a microbatch"
        )
    return any(lacking.values())


def _lengths_of(plan: Plan, split: Mapping[str, Tensor], sample: Mapping[str, Any]) -> Sizes:
    """The lengths of a sample, which may miss inputs; the longest that no input tells."""
    lengths: dict[str, int] = {}
    for name, tensor in split.items():
        given = sample.get(name)
        if isinstance(given, torch.Tensor):
            for planned, size in zip(tensor.shape[1:], given.shape, strict=True):
                if isinstance(planned, str) and planned in plan.batch.lengths:
                    lengths[planned] = max(size, lengths.get(planned, 0))
    longest = {name: allowed.longest for name, allowed in plan.batch.lengths.items()}
    return {**longest, **lengths}


def _together(plan: Plan, split: Mapping[str, Tensor], samples: Parts) -> dict[str, Any]:
    """A microbatch of samples."""
    stacked = {
        name: _padded(plan, tensor, [sample[name] for sample in samples])
        for name, tensor in split.items()
        if name in samples[0]
    }
    return {**samples[0], **stacked}


def _padded(plan: Plan, tensor: Tensor, samples: Sequence[torch.Tensor]) -> torch.Tensor:
    """An input of several samples, each as long as the longest. Raises RunError without `pad`."""
    longest = [max(sizes) for sizes in zip(*(sample.shape for sample in samples), strict=True)]
    if all(list(sample.shape) == longest for sample in samples):
        return torch.stack(list(samples))
    follows = [size in plan.batch.lengths for size in tensor.shape[1:]]
    shapes = ", ".join(dict.fromkeys(str(list(sample.shape)) for sample in samples))
    sizes = zip(*(sample.shape for sample in samples), strict=True)
    for size, may_differ in zip(sizes, follows, strict=True):
        if len(set(size)) > 1 and not may_differ:
            raise RunError(f"samples of input '{tensor.name}' differ in a fixed size: {shapes}")
    if tensor.name not in plan.batch.pad:
        raise RunError(
            f"samples of input '{tensor.name}' in one microbatch differ in length ({shapes}), and "
            f"the plan has nothing to pad it with; compile with pad: {{{tensor.name}: VALUE}} in "
            "the job file's batch, or give a list of microbatches"
        )
    return torch.stack([_longer(s, longest, plan.batch.pad[tensor.name]) for s in samples])


def _longer(sample: torch.Tensor, longest: Sequence[int], value: float) -> torch.Tensor:
    """A sample with `value` behind what it has."""
    behind = [most - size for size, most in zip(sample.shape, longest, strict=True)]
    return F.pad(sample, [n for more in reversed(behind) for n in (0, more)], value=value)
