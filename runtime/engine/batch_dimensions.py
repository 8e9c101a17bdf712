"""Which dimensions of a stage's inputs follow the batch, told to torch.compile: all others are constants to its kernels."""

from collections.abc import Sequence

import torch

from pipecut.plan.schema import Plan, Stage


def batch_dimensions(plan: Plan, stage: Stage) -> list[list[int]]:
    """Of each tensor that the stage is given, in order; none where nothing is compiled or the batch is fixed."""
    if plan.compile == "eager" or not plan.batch.dynamic:
        return []
    received = next((b.tensors for b in plan.boundaries if b.left == stage.index - 1), [])
    inputs = {tensor.name: tensor for tensor in plan.inputs}
    given = [*received, *(inputs[name] for name in stage.batch_inputs)]
    return [
        [at for at, size in enumerate(tensor.shape) if isinstance(size, str)] for tensor in given
    ]


def mark(tensors: Sequence[torch.Tensor], dimensions: Sequence[Sequence[int]]) -> None:
    """Before a compiled stage is called: a ragged microbatch, or an evaluation, has another size."""
    for tensor, own in zip(tensors, dimensions, strict=False):
        for dimension in own:
            # Weakly: a size of 1 stays a constant, and is compiled by itself.
            torch._dynamo.maybe_mark_dynamic(tensor, dimension)
