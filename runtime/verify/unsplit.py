"""The unsplit model, trained with gradient accumulation over the pipeline's microbatches."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from pipecut.model.draws import Draws
from pipecut.model.functions import function_of_plan
from pipecut.model.nudge import nudge
from pipecut.model.optimizer import make_optimizer
from pipecut.model.plan_optimizer import PlanOptimizer
from pipecut.model.precision import as_summed, cast_model
from pipecut.model.unsplit import WithLoss
from pipecut.model.weights import read_weights
from pipecut.plan.schema import Plan
from pipecut.runtime.batches.flat import flat_batch
from pipecut.runtime.batches.microbatches import microbatches, samples_in
from pipecut.runtime.gradients.loss_scale import LossScale
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.parameters import RankParameter, parameters_of
from pipecut.runtime.verify.batches import batch_of_step
from pipecut.runtime.verify.evaluation import evaluated_unsplit, whole_draws
from pipecut.runtime.verify.setting import EPS
from pipecut.runtime.verify.tensors import Tensors, kept, on_device


def train_unsplit(
    plan: Plan, steps: int, device: str, evaluation: bool, nudged: bool = False
) -> Iterator[Tensors]:
    """Loss, gradients, and parameters and buffers after it, of each step: `gradient/FQN`.

    `nudged`: the last bit of each parameter is another, to see what rounding does.
    """
    torch.manual_seed(plan.model.seed)
    torch.set_num_threads(1)
    unsplit = Unsplit(plan, device, nudged)
    for step in range(steps):
        tensors = unsplit.step(step)
        if evaluation:
            unsplit.masters.refresh()
            tensors |= evaluated_unsplit(plan, unsplit.with_loss, unsplit.draws, step, device)
        yield tensors


class Unsplit:
    """The model, its masters and its optimizer."""

    def __init__(self, plan: Plan, device: str, nudged: bool = False) -> None:
        self.plan, self.device = plan, device
        self.model = initial_model(plan)
        if nudged:
            nudge(self.model, plan.model.precision, plan.model.seed)
        first = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        loss = function_of_plan(plan.model.loss, plan.model) if plan.model.loss else None
        in_precision = cast_model(self.model, plan.model.precision)
        self.with_loss = WithLoss(in_precision, loss).train().to(device)
        self.with_loss.nesting = plan.nesting
        self.parameters = parameters_of(self.model)
        self.masters, self.scale = Masters(self.parameters), LossScale(plan.model.precision)
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.master.copy_(first[parameter.name])
        trained = [(p.name, p.master) for p in self.parameters if p.trainable]
        named = trained or [(p.name, p.master) for p in self.parameters]
        stepped = make_optimizer(plan.optimizer, named, least_eps=EPS)
        self.optimizer = PlanOptimizer(stepped, self._clip, plan.clip)
        self.draws = Draws(plan.model.seed)

    def step(self, step: int) -> Tensors:
        """Train one step."""
        self.masters.refresh()
        tensors = {"loss/loss": self._accumulate(step)}
        masters = _masters(self.parameters)
        if self.scale.used:
            self.scale.apply(masters, bool(self.scale.overflows(masters)))
        for parameter in self.parameters:
            if parameter.master.grad is not None:
                tensors[f"gradient/{parameter.name}"] = kept(parameter.master.grad)
        self.optimizer.step()
        for parameter in self.parameters:
            tensors[f"parameter/{parameter.name}"] = kept(parameter.master)
        for name, buffer in self.model.named_buffers():
            tensors[f"buffer/{name}"] = kept(buffer)
        return tensors

    def _clip(self, norm: float) -> torch.Tensor:
        return nn.utils.clip_grad_norm_(_masters(self.parameters), norm)

    def _accumulate(self, step: int) -> torch.Tensor:
        """Forward and backward of each microbatch. Returns the loss of the whole batch."""
        plan = self.plan
        batch = flat_batch(plan, batch_of_step(plan, step), plan.model.inputs)
        parts = microbatches(plan, batch)
        weights = plan.batch.weights(parts, [samples_in(plan, part) for part in parts])
        total = torch.zeros(())
        for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            # Around the backward too, in which torch.utils.checkpoint draws again.
            with self.draws.at(step + 1, number), whole_draws(self.draws, self.model, plan):
                loss = self.with_loss(on_device(part, self.device))
                (loss * (weight * self.scale.scale)).backward()
            total += (as_summed(loss.detach()) * weight).cpu()
        return total


def initial_model(plan: Plan) -> nn.Module:
    """The model with the values that training begins with, from its factory or its weights."""
    reference = plan.model
    model: nn.Module = function_of_plan(reference.factory, reference)(**reference.args)
    if plan.model.weights:
        # Strict about unknown names; a tied name may be absent from the file.
        model.load_state_dict(read_weights(Path(plan.model.weights), plan), strict=False)
    return model


def _masters(parameters: Sequence[RankParameter]) -> list[nn.Parameter]:
    return [parameter.master for parameter in parameters]
