"""Eval mode's part of verify: eval_step and predict beside the unsplit model's own, after each step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipecut.errors import RunError
from pipecut.model.draws import Draws
from pipecut.model.sample_batch import sample_batch
from pipecut.model.unsplit import WithLoss
from pipecut.plan.schema import HALF, Plan
from pipecut.runtime.batches.microbatches import checked_batch, microbatches, samples_in
from pipecut.runtime.pipeline import Pipeline

# Batches that training does not use.
FIRST = 50_000


def check_can_evaluate(plan: Plan) -> None:
    """Raises RunError where the plan only trains."""
    if plan.evaluation.refused:
        raise RunError(
            f"the plan only trains, so there is no eval mode to verify: {plan.evaluation.refused}"
        )


def evaluated_by_plan(pipe: Pipeline, step: int) -> dict[str, torch.Tensor]:
    """The loss in eval mode, and every output of the whole batch, as this rank has them."""
    batch = _batch(pipe.plan, step)
    found = {}
    if pipe.plan.evaluation.loss:
        found["eval loss/loss"] = pipe.eval_step(**batch).float()
    if any(stage.outputs for stage in pipe.evaluation.evaluated.stages):
        outputs = pipe.predict(everywhere=True, **batch)
        found |= {f"output/{name}": tensor for name, tensor in _comparable(pipe.plan, outputs)}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in found.items()}


def evaluated_unsplit(
    plan: Plan, model: WithLoss, draws: Draws, step: int, device: str
) -> dict[str, torch.Tensor]:
    """The same of the unsplit model; its outputs of the whole batch at once, where it takes one of any size."""
    batch = _batch(plan, step)
    names = {
        tensor.name: tensor.samples_at for s in plan.in_evaluation().stages for tensor in s.outputs
    }
    total, parts = torch.zeros(()), microbatches(plan, batch)
    weights = plan.batch.weights(batch, [samples_in(plan, part) for part in parts])
    outputs: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    drew = False
    with _in_eval_mode(model, plan.evaluation.loss):
        for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            with draws.at(step + 2, number):
                result = model(_moved(part, device))
                drew = drew or len(draws.after) > 1
            for loss in result["loss"]:
                total += (loss * weight).float().cpu()
            for name, own in outputs.items():
                own.append(result["others"][name].cpu())
    joined = {name: torch.cat(own, names[name]) for name, own in outputs.items()}
    if names and plan.in_evaluation().batch.dynamic and not drew:
        with _in_eval_mode(model, plan.evaluation.loss):
            whole = model(_moved({**checked_batch(plan, batch)[0], **plan.constants}, device))[
                "others"
            ]
        joined = {name: _expected(whole[name].cpu(), tensor) for name, tensor in joined.items()}
    found = {"eval loss/loss": total} if plan.evaluation.loss else {}
    return found | {f"output/{name}": tensor for name, tensor in _comparable(plan, joined)}


def _expected(whole: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """The result of the whole batch; of a model that mixes samples, as a mean over them does, those of each microbatch."""
    if whole.shape == parts.shape and not torch.allclose(
        wide(whole), wide(parts), rtol=1e-2, atol=1e-3
    ):
        return parts
    return whole


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """In double precision, complex where it is."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


@contextmanager
def _in_eval_mode(model: WithLoss, has_loss: bool) -> Iterator[None]:
    """With its outputs, and leaving its buffers as they are."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.eval()
    model.traced, model.has_loss = True, has_loss
    try:
        with torch.no_grad():
            yield
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
    finally:
        model.traced, model.has_loss = False, True
        model.train()


def _batch(plan: Plan, step: int) -> dict[str, torch.Tensor]:
    """One whose last microbatch is smaller, where the model and the user's inputs allow that."""
    size = plan.batch.global_size
    if plan.in_evaluation().batch.dynamic and size > 1 and plan.batch.microbatch > 1:
        try:
            return sample_batch(plan.model, size - 1, FIRST + step)
        except Exception:
            # The user's function makes batches of some sizes alone.
            return sample_batch(plan.model, size, FIRST + step)
    whole = size - size % plan.batch.microbatch or plan.batch.microbatch
    return sample_batch(plan.model, whole, FIRST + step)


def _comparable(plan: Plan, outputs: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Of half precision no integers: rounding decides which of two equals is the largest."""
    half = plan.model.precision in ("bf16", "fp16") and any(
        h.dtype in HALF for s in plan.stages for h in s.parameters
    )
    for name, tensor in outputs.items():
        if not half or tensor.is_floating_point() or tensor.is_complex():
            yield name, tensor


def _moved(batch: dict[str, object], device: str) -> dict[str, object]:
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }
