"""A stage's opaque modules in one of its forwards: whole, drawing by their place, and checked."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from pipecut.errors import RunError
from pipecut.model.draws import Draws
from pipecut.model.opaque.nested import tensors_in
from pipecut.model.opaque.watching import watched
from pipecut.plan.schema import OpaqueModule, OpaqueResult, Plan, Stage, evaluate
from pipecut.runtime.engine.weight_gradients import WeightGradStore


class OpaqueModules:
    """The modules of a stage that run as they are."""

    def __init__(self, plan: Plan, stage: Stage, module: nn.Module) -> None:
        self.stage = module
        self.modules = {opaque.name: opaque for opaque in stage.opaque}
        received = next((b.tensors for b in plan.boundaries if b.left == stage.index - 1), [])
        inputs = {tensor.name: tensor for tensor in plan.inputs}
        taken = [*received, *(inputs[name] for name in stage.batch_inputs)]
        # Where the number of samples is read off.
        self.sized_by = next(
            (
                (position, tensor.shape.index("batch"))
                for position, tensor in enumerate(taken)
                if "batch" in tensor.shape
            ),
            None,
        )
        self.microbatch = plan.batch.microbatch

    def running(
        self, inputs: Sequence[torch.Tensor], draws: Draws | None, store: WeightGradStore | None
    ) -> AbstractContextManager[None]:
        """Around a forward of the stage on these inputs.

        A module's result that is not as planned raises RunError.
        """
        if not self.modules:
            return nullcontext()
        samples = self.microbatch
        if self.sized_by is not None:
            position, dimension = self.sized_by
            samples = inputs[position].shape[dimension]

        def begin() -> None:
            if draws is not None:
                draws.begin_opaque()
            if store is not None:
                store.suspended = True

        def end(name: str, result: Any) -> None:
            if draws is not None:
                draws.end_opaque()
            if store is not None:
                store.suspended = False
            check_result(self.modules[name], tensors_in(result), samples)

        return watched(self.stage, self.modules, begin, end)


def check_result(module: OpaqueModule, tensors: Sequence[torch.Tensor], samples: int) -> None:
    """Raises RunError where what a module returns is not what the plan was made for."""
    made = [_text(list(tensor.shape), str(tensor.dtype)) for tensor in tensors]
    expected = [_texts(results, samples) for results in module.results]
    if made not in expected:
        either = " or ".join(", ".join(texts) or "no tensor" for texts in expected)
        raise RunError(
            f"the module '{module.name}', which runs as it is, returned "
            f"{', '.join(made) or 'no tensor'}, and the plan was made for {either}: its sizes "
            "depend on data; compile with the module around it in model.opaque"
        )


def _texts(results: Sequence[OpaqueResult], samples: int) -> list[str]:
    return [
        _text([evaluate(dimension, samples) for dimension in result.shape], result.dtype)
        for result in results
    ]


def _text(sizes: Sequence[int], dtype: str) -> str:
    return f"{dtype.removeprefix('torch.')}{list(sizes)}"
