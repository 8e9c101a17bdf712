"""An example batch, the same wherever it is made."""

from collections.abc import Mapping
from typing import Any

import torch

from pipecut.model.batch.nesting import members_of
from pipecut.model.functions import inputs_of_plan
from pipecut.plan.schema import ModelRef


def sample_batch(
    model: ModelRef, size: int, step: int, lengths: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """The batch of a step, which is the same for every rank and the unsplit model.

    Without `lengths` it has the longest.
    """
    inputs = inputs_of_plan(model)
    # Other seeds than the job's own, which are small numbers.
    torch.manual_seed(10_000 + step)
    return members_of(inputs(size, **(lengths or {})))
