"""A stage's opaque modules in one of its forwards: whole, drawing by their place, and checked."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from pipecut.errors import RunError
from pipecut.model.draws import Draws
from pipecut.model.opaque.nested import as_text, leaves_in, nesting_in, tensors_in
from pipecut.model.opaque.watching import watched
from pipecut.plan.schema import OpaqueModule, OpaqueResult, Sizes, Stage, evaluate
from pipecut.runtime.engine.weight_gradients import WeightGradStore


class OpaqueModules:
    """The modules of a stage that run as they are."""

    def __init__(self, stage: Stage, module: nn.Module, draws: Draws | None) -> None:
        self.stage, self.draws = module, draws
        self.modules = {opaque.name: opaque for opaque in stage.opaque}

    def running(self, sizes: Sizes, store: WeightGradStore | None) -> AbstractContextManager[None]:
        """Around a forward of the stage on a microbatch of such sizes.

        A module's result that is not as planned raises RunError.
        """
        if not self.modules:
            return nullcontext()

        def begin() -> None:
            if self.draws is not None:
                self.draws.begin_opaque()
            if store is not None:
                store.suspended = True

        def end(name: str, result: Any) -> None:
            if self.draws is not None:
                self.draws.end_opaque()
            if store is not None:
                store.suspended = False
            check_result(self.modules[name], result, sizes)

        return watched(self.stage, self.modules, begin, end)


def check_result(module: OpaqueModule, result: Any, sizes: Sizes) -> None:
    """Raises RunError where what a module returns is not what the plan was made for."""
    tensors = [_text(list(tensor.shape), str(tensor.dtype)) for tensor in tensors_in(result)]
    others = [as_text(leaf) for leaf in leaves_in(result) if not isinstance(leaf, torch.Tensor)]
    others += nesting_in(result, torch.Tensor)
    others_of = module.others or [[] for _ in module.results]
    expected = [
        (_texts(results, sizes), [_other(text, sizes) for text in texts])
        for results, texts in zip(module.results, others_of, strict=False)
    ]
    if (tensors, others) not in expected:
        either = " or ".join(", ".join((*a, *b)) or "no tensor" for a, b in expected)
        what = "sizes" if tensors not in [a for a, _ in expected] else "numbers, flags or nesting"
        raise RunError(
            f"the module '{module.name}', which runs as it is, returned "
            f"{', '.join((*tensors, *others)) or 'no tensor'}, and the plan was made for {either}: "
            f"its {what} depend on data; compile with the module around it in model.opaque"
        )


def _other(text: str, sizes: Sizes) -> str:
    kind, _, value = text.partition(" ")
    return f"int {evaluate(value, sizes)}" if kind == "int" else text


def _texts(results: Sequence[OpaqueResult], sizes: Sizes) -> list[str]:
    return [
        _text([evaluate(dimension, sizes) for dimension in result.shape], result.dtype)
        for result in results
    ]


def _text(sizes: Sequence[int], dtype: str) -> str:
    return f"{dtype.removeprefix('torch.')}{list(sizes)}"
