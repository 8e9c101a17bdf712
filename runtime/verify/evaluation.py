"""Eval mode's part of verify: eval_step and predict beside the unsplit model's own results."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from pipecut.errors import RunError
from pipecut.model.comparison import wide
from pipecut.model.draws import Draws
from pipecut.model.opaque.watching import drawing_once
from pipecut.model.sample_batch import sample_batch
from pipecut.model.unsplit import WithLoss
from pipecut.plan.schema import HALF, Plan
from pipecut.runtime.batches.flat import flat_batch
from pipecut.runtime.batches.microbatches import checked_batch, microbatches, samples_in
from pipecut.runtime.pipeline import Pipeline
from pipecut.runtime.verify.batches import lengths_of
from pipecut.runtime.verify.tensors import Tensors, kept, on_device

# The first of the batches that training does not use.
FIRST = 50_000
# A whole batch's outputs that are further from those of its microbatches mix samples.
RELATIVE, ABSOLUTE = 1e-2, 1e-3


def check_can_evaluate(plan: Plan) -> None:
    """Raise RunError where the plan only trains."""
    if plan.evaluation.refused:
        raise RunError(
            f"the plan only trains, so there is no eval mode to verify: {plan.evaluation.refused}"
        )


def evaluated_by_plan(pipe: Pipeline, step: int) -> Tensors:
    """The loss in eval mode, and every output of the whole batch, as this rank has them."""
    batch = _batch(pipe.plan, step)
    tensors: Tensors = {}
    if pipe.plan.evaluation.loss:
        tensors["eval loss/loss"] = pipe.eval_step(**batch).float()
    if any(stage.outputs for stage in pipe.plan.in_evaluation().stages):
        tensors |= _comparable(pipe.plan, pipe.predict(everywhere=True, **batch))
    return {name: kept(tensor) for name, tensor in tensors.items()}


def evaluated_unsplit(plan: Plan, model: WithLoss, draws: Draws, step: int, device: str) -> Tensors:
    """The same of the unsplit model; outputs of the whole batch at once where it takes any size."""
    batch = _by_name(plan, step)
    evaluated = plan.in_evaluation()
    outputs = {tensor.name: tensor.samples_at for s in evaluated.stages for tensor in s.outputs}
    parts = microbatches(plan, batch)
    weights = plan.batch.weights(parts, [samples_in(plan, part) for part in parts])
    loss = torch.zeros(())
    parts_of_outputs: dict[str, list[torch.Tensor]] = {name: [] for name in outputs}
    drew = False
    with _in_eval_mode(model, plan.evaluation.loss):
        for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            with draws.at(step + 2, number), whole_draws(draws, model.model, plan):
                result = model(on_device(part, device))
                drew = drew or len(draws.after) > 1
            for part_of_loss in result["loss"]:
                loss += (part_of_loss * weight).float().cpu()
            for name in outputs:
                parts_of_outputs[name].append(result["others"][name].cpu())
    joined = {name: torch.cat(parts_of_outputs[name], outputs[name]) for name in outputs}
    if outputs and evaluated.batch.dynamic and not drew:
        with _in_eval_mode(model, plan.evaluation.loss):
            tensors = {**checked_batch(plan, batch)[0], **plan.constants}
            at_once = model(on_device(tensors, device))["others"]
        joined = {name: _expected(at_once[name].cpu(), part) for name, part in joined.items()}
    eval_loss = {"eval loss/loss": loss} if plan.evaluation.loss else {}
    return eval_loss | _comparable(plan, joined)


def _by_name(plan: Plan, step: int) -> Tensors:
    return flat_batch(plan, _batch(plan, step), plan.model.inputs)


def _expected(at_once: torch.Tensor, joined: torch.Tensor) -> torch.Tensor:
    """The output of the whole batch; the joined one where the model mixes samples."""
    if at_once.shape != joined.shape:
        return at_once
    alike = torch.allclose(wide(at_once), wide(joined), rtol=RELATIVE, atol=ABSOLUTE)
    return at_once if alike else joined


def whole_draws(draws: Draws, model: nn.Module, plan: Plan) -> AbstractContextManager[None]:
    """Let the unsplit model's opaque modules draw as the plan's do."""
    names = dict.fromkeys(opaque.name for stage in plan.stages for opaque in stage.opaque)
    return drawing_once(model, names, draws)


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


def _batch(plan: Plan, step: int) -> Tensors:
    """A batch whose last microbatch is smaller, where the model and its inputs allow that."""
    size, lengths = plan.batch.global_size, lengths_of(plan.in_evaluation(), step + 2)
    any_size = plan.in_evaluation().batch.dynamic and plan.batch.least_samples == 1
    if any_size and size > 1 and plan.batch.microbatch > 1:
        try:
            return sample_batch(plan.model, size - 1, FIRST + step, lengths)
        except Exception:
            # The user's function makes batches of some sizes only.
            return sample_batch(plan.model, size, FIRST + step, lengths)
    full_microbatches = size - size % plan.batch.microbatch or plan.batch.microbatch
    return sample_batch(plan.model, full_microbatches, FIRST + step, lengths)


def _comparable(plan: Plan, outputs: Tensors) -> Tensors:
    """Outputs as `output/NAME`; no integers of a half-precision model, which are often an argmax.

    Rounding decides which of two equals is the largest.
    """
    parameters = [parameter for stage in plan.stages for parameter in stage.parameters]
    half = plan.model.precision in ("bf16", "fp16") and any(p.dtype in HALF for p in parameters)
    return {
        f"output/{name}": tensor
        for name, tensor in outputs.items()
        if not half or tensor.is_floating_point() or tensor.is_complex()
    }
