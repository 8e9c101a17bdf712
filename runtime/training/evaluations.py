"""The loss of batches in eval mode, while a training goes on."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipecut.plan.schema import Plan
from pipecut.runtime.batches.microbatches import divided
from pipecut.runtime.pipeline import Pipeline
from pipecut.runtime.training.data import Batch, batches_once

OPTION = "eval: data:"


def evaluated_loss(pipe: Pipeline, data: str) -> float:
    """The mean loss over all batches of `data` ("module:function"), as one large batch has it.

    Weighted by samples, or by counted labels where the job says `reduction: tokens`; the sum where
    it says `sum`. The random numbers of the training stay as they are. Raises RunError.
    """
    total, weights = 0.0, 0
    with _own_random_numbers():
        for batch in batches_once(pipe, data, OPTION):
            weight = 1 if pipe.plan.batch.summed else _weight(pipe.plan, batch)
            total += float(pipe.eval_step(**batch)) * weight
            weights += weight
    return total if pipe.plan.batch.summed else total / weights


def _weight(plan: Plan, batch: Batch) -> int:
    terms = plan.batch.terms
    return sum(
        part.sizes["batch"] if terms is None else terms.count(part.tensors[terms.input])
        for part in divided(plan, batch)
    )


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """The user's data may draw: put the generators of torch, Python and NumPy back."""
    numpy = sys.modules.get("numpy")
    of_python, of_numpy = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(of_python)
        if numpy:
            numpy.random.set_state(of_numpy)
