"""An example batch, the same wherever it is made."""

from collections.abc import Mapping

import torch

from pipecut.model.functions import inputs_of_plan
from pipecut.plan.schema import ModelRef


def sample_batch(
    model: ModelRef, size: int, step: int, lengths: Mapping[str, int] | None = None
) -> dict[str, torch.Tensor]:
    """The batch of a step, which is the same for every rank and the unsplit model.

    Without `lengths` it has the longest.
    """
    inputs = inputs_of_plan(model)
    # Other seeds than the job's own, which are small numbers.
    torch.manual_seed(10_000 + step)
    batch: dict[str, torch.Tensor] = inputs(size, **(lengths or {}))
    return batch
