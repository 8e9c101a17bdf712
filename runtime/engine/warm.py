"""Run each stage once before the ranks wait for each other: what is compiled or set up at first use takes no step's time."""

import logging
from collections.abc import Iterable

import torch
from torch import nn

from pipecut.device.types import type_of
from pipecut.device.work import fork_rng, synchronize
from pipecut.plan.schema import Plan, Stage, Tensor
from pipecut.runtime.engine.stage import RunningStage
from pipecut.runtime.gradients.masters import Masters

log = logging.getLogger("pipecut")


def needs_warming(plan: Plan, device: torch.device) -> bool:
    """Whether a first run takes longer than others: eager stages on a CPU have nothing to set up."""
    return plan.compile != "eager" or type_of(device).queued


def warm(
    plan: Plan,
    stages: Iterable[Stage],
    modules: dict[int, nn.Module],
    masters: Masters,
    device: torch.device,
    training: bool = True,
) -> None:
    """One forward of zeros on each stage, and when `training` a backward; nothing that lasts changes by it.

    Gradients, buffers and random numbers stay as they are. A stage that cannot run on zeros is left as it is.
    """
    if not needs_warming(plan, device):
        return
    for stage in stages:
        module = modules[stage.index]
        running = RunningStage(plan, stage, module, masters=masters)
        before = [(buffer, buffer.clone()) for buffer in running.written()]
        try:
            with fork_rng(device):
                _once(plan, stage, running, device, training)
        except Exception as error:
            log.warning(
                "stage %d could not run on zeros before its first step: %s", stage.index, error
            )
        finally:
            with torch.no_grad():
                for buffer, value in before:
                    buffer.copy_(value)
            for parameter in module.parameters() if training else ():
                parameter.grad = masters.of[id(parameter)].grad = None
    synchronize(device)


def _once(
    plan: Plan, stage: Stage, running: RunningStage, device: torch.device, training: bool
) -> None:
    size = plan.batch.microbatch
    received = plan.boundaries[stage.index - 1].tensors if stage.index else []
    sent = plan.boundaries[stage.index].tensors if stage.index < len(plan.boundaries) else []
    inputs = {tensor.name: tensor for tensor in plan.inputs}
    given = [_zeros(tensor, size, device) for tensor in received]
    batch = [_zeros(inputs[name], size, device) for name in stage.batch_inputs]
    running.begin(1, 0)
    running.forward(0, given, batch, 1.0, grad=training)
    if training:
        running.backward(0, [_zeros(tensor, size, device) for tensor in sent if tensor.needs_grad])


def _zeros(tensor: Tensor, samples: int, device: torch.device) -> torch.Tensor:
    """Laid out in memory as the transport lays it out."""
    sizes = tensor.sizes(samples)
    order = tensor.order or list(range(len(sizes)))
    laid = torch.zeros([sizes[d] for d in order], dtype=getattr(torch, tensor.dtype), device=device)
    return laid.permute([order.index(d) for d in range(len(order))])
