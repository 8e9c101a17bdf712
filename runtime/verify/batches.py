"""The batches that the plan and the unsplit model are compared on."""

from typing import Any

import torch

from pipecut.model.batch.nesting import kind_of
from pipecut.model.sample_batch import sample_batch
from pipecut.plan.schema import Plan
from pipecut.runtime.batches.grouping import samples_per_microbatch

# Seeds of a batch's microbatches: more than a batch has.
APART = 100_000


def batch_of_step(plan: Plan, step: int) -> dict[str, Any]:
    """The global batch of a step; where lengths differ, each microbatch has its own.

    The first microbatch has the longest, the second the shortest and most samples, others some
    between.
    """
    size = plan.batch.global_size
    if not plan.batch.lengths:
        return sample_batch(plan.model, size, step)
    parts = []
    for number, samples in enumerate(samples_per_microbatch(plan, size)):
        lengths = lengths_of(plan, number)
        if number == 1:
            # As many as its length allows.
            samples = plan.batch.most_samples(lengths)
        parts.append(sample_batch(plan.model, samples, step + number * APART, lengths))
    return {name: _listed([part[name] for part in parts]) for name in parts[0]}


def lengths_of(plan: Plan, number: int) -> dict[str, int]:
    """The lengths of a batch's microbatch."""
    return {
        name: _length(allowed.shortest, allowed.longest, number)
        for name, allowed in plan.batch.lengths.items()
    }


def _length(shortest: int, longest: int, number: int) -> int:
    """Of the first microbatches the longest and the shortest, then steps of 0.38 of the range."""
    if number < 2:
        return shortest if number else longest
    return shortest + round((longest - shortest) * ((number * 0.381966) % 1.0))


def _listed(values: list[Any]) -> Any:
    listed = isinstance(values[0], torch.Tensor) or kind_of(values[0]) is not None
    return values if listed else values[0]
