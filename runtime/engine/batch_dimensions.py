"""Tell torch.compile which dimensions of a stage's inputs follow the batch and its lengths.

All others are constants to its kernels.
"""

from collections.abc import Sequence

import torch

from pipecut.plan.schema import Plan, Stage


def batch_dimensions(plan: Plan, stage: Stage) -> list[list[int]]:
    """The dimensions that follow the batch, of each tensor that the stage takes, in order.

    None where nothing is compiled or all sizes are fixed.
    """
    if plan.compile == "eager" or not (plan.batch.dynamic or plan.batch.lengths):
        return []
    received = next((b.tensors for b in plan.boundaries if b.left == stage.index - 1), [])
    inputs = {tensor.name: tensor for tensor in plan.inputs}
    taken = [*received, *(inputs[name] for name in stage.batch_inputs)]
    # A dimension that is not fixed is an expression; others are numbers.
    return [
        [dimension for dimension, size in enumerate(tensor.shape) if isinstance(size, str)]
        for tensor in taken
    ]


def mark(tensors: Sequence[torch.Tensor], dimensions: Sequence[Sequence[int]]) -> None:
    """Mark inputs before each call of a compiled stage: microbatches differ in their sizes."""
    for tensor, batch_dimensions_of_tensor in zip(tensors, dimensions, strict=False):
        for dimension in batch_dimensions_of_tensor:
            # Weakly: a size of 1 stays a constant, and is compiled by itself.
            torch._dynamo.maybe_mark_dynamic(tensor, dimension)
