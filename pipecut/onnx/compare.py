"""An exported plan in onnxruntime beside the unsplit model in eval mode."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipecut.errors import RunError, UserFileError
from pipecut.model.functions import function_of_plan
from pipecut.model.precision import cast_model
from pipecut.model.sample_batch import sample_batch
from pipecut.model.unsplit import WithLoss
from pipecut.onnx.chain import Arrays, Chain
from pipecut.onnx.values import Weights
from pipecut.plan.folder import PlanFolder
from pipecut.plan.schema import HALF, Plan
from pipecut.runtime.batches.flat import flat_batch
from pipecut.runtime.batches.microbatches import checked_batch
from pipecut.runtime.verify.unsplit import initial_model

TOLERANCE = 1e-5
# The first of the batches that neither training nor verify uses.
FIRST = 90_000


@dataclass(frozen=True)
class Difference:
    """The largest difference of an output, as part of its largest value where that is above 1."""

    output: str
    largest: float
    batch: int

    def __str__(self) -> str:
        """For people."""
        return f"{self.output}: {self.largest:.1e} (batch of {self.batch})"


def refuse_incomparable(plan: Plan, weights: Weights) -> None:
    """Raises UserFileError where onnxruntime's CPU kernels cannot run what would be exported."""
    held = [tensor for stage in plan.stages for tensor in (*stage.parameters, *stage.buffers)]
    if weights.absent:
        raise UserFileError("--verify needs values: leave out --weights none")
    if any(tensor.dtype in HALF for tensor in held):
        raise UserFileError(
            f"--verify: onnxruntime has no CPU kernels for most operators in "
            f"{plan.model.precision}; compile with precision: fp32 to compare"
        )


def differences(folder: PlanFolder, exported: Path, weights: Weights) -> list[Difference]:
    """For each output the largest difference, over batches of the sizes that the stages take.

    Raises RunError where onnxruntime cannot run a stage, or an output has another shape.
    """
    plan = folder.plan.in_evaluation()
    model = _unsplit(plan, weights)
    chain = Chain(exported)
    size = plan.batch.microbatch
    sizes = sorted({1, size, size + 1}) if plan.batch.dynamic else [size]
    largest: dict[str, Difference] = {}
    for number, samples in enumerate(sizes):
        batch = _batch(plan, samples, size, number)
        if batch is None:
            continue
        expected = _expected(model, plan, batch)
        given = {port.name: batch[port.name].numpy() for port in chain.manifest.inputs}
        for name, array in chain.run(given).items():
            here = Difference(name, difference(name, array, expected), samples)
            if name not in largest or here.largest > largest[name].largest:
                largest[name] = here
    return list(largest.values())


def refuse_different(found: list[Difference]) -> None:
    """Raises RunError where an output differs by more than rounding does."""
    wrong = [str(each) for each in found if not each.largest <= TOLERANCE]
    if wrong:
        raise RunError(
            f"the exported stages give other outputs than the model, beyond {TOLERANCE:g}: "
            f"{'; '.join(wrong)}"
        )


def _unsplit(plan: Plan, weights: Weights) -> WithLoss:
    """The model in eval mode with the values that were exported."""
    torch.manual_seed(plan.model.seed)
    model = initial_model(weights.plan)
    weights.fill_unsplit(model)
    loss = function_of_plan(plan.model.loss, plan.model) if plan.model.loss else None
    with_loss = WithLoss(cast_model(model, plan.model.precision), loss).eval()
    with_loss.traced, with_loss.has_loss = True, plan.evaluation.loss
    with_loss.nesting = plan.nesting
    return with_loss


def _batch(plan: Plan, samples: int, size: int, number: int) -> dict[str, torch.Tensor] | None:
    """A batch of that many samples; None where the user's function makes other sizes only."""
    try:
        batch = sample_batch(plan.model, samples, FIRST + number)
        return checked_batch(plan, flat_batch(plan, batch, plan.model.inputs))[0]
    except Exception:
        if samples == size:
            raise
        return None


@torch.no_grad()
def _expected(model: WithLoss, plan: Plan, batch: Mapping[str, torch.Tensor]) -> Arrays:
    result = model({**{name: t.clone() for name, t in batch.items()}, **plan.constants})
    named = result["others"] or {"loss": result["loss"][0]}
    return {name: tensor.numpy() for name, tensor in named.items()}


def difference(name: str, array: NDArray[np.generic], expected: Arrays) -> float:
    """The largest difference of an array. Raises RunError for another shape or dtype."""
    wanted = expected[name]
    if array.shape != wanted.shape or array.dtype != wanted.dtype:
        raise RunError(
            f"{name} is {array.dtype}{list(array.shape)} in onnxruntime, and "
            f"{wanted.dtype}{list(wanted.shape)} in torch"
        )
    if not wanted.size:
        return 0.0
    if not np.issubdtype(wanted.dtype, np.floating):
        return float((array != wanted).any())
    # What is infinite, such as a masked score, must be so in both.
    finite = np.isfinite(wanted)
    if not np.array_equal(array[~finite], wanted[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    exact, given = wanted[finite].astype(np.float64), array[finite].astype(np.float64)
    return float(np.abs(given - exact).max() / max(1.0, np.abs(exact).max()))
