"""Run each stage once before the ranks wait for each other.

What is compiled or set up at first use then takes no step's time.
"""

import logging
from collections.abc import Iterable

import torch
from torch import nn

from pipecut.device.types import type_of
from pipecut.device.work import fork_rng, synchronize
from pipecut.plan.schema import Plan, Sizes, Stage, Tensor
from pipecut.runtime.engine.stage import RunningStage
from pipecut.runtime.gradients.masters import Masters

log = logging.getLogger("pipecut")


def needs_warming(plan: Plan, device: torch.device) -> bool:
    """Whether a first run takes longer: eager stages on a CPU have nothing to set up."""
    return plan.compile != "eager" or type_of(device).queued


def warm(
    plan: Plan,
    stages: Iterable[Stage],
    modules: dict[int, nn.Module],
    masters: Masters,
    device: torch.device,
    training: bool = True,
) -> None:
    """Run a forward of zeros on each stage, and when `training` a backward, without lasting effect.

    Gradients, buffers and random numbers stay as they are. A stage that cannot run on zeros is left
    as it is, with a warning.
    """
    if not needs_warming(plan, device):
        return
    for stage in stages:
        running = RunningStage(plan, stage, modules[stage.index], masters)
        before = [(buffer, buffer.clone()) for buffer in running.written()]
        try:
            with fork_rng(device):
                _run_on_zeros(plan, running, device, training)
        except Exception as error:
            log.warning(
                "stage %d could not run on zeros before its first step: %s", stage.index, error
            )
        finally:
            with torch.no_grad():
                for buffer, value in before:
                    buffer.copy_(value)
            if training:
                masters.drop_gradients()
    synchronize(device)


def _run_on_zeros(plan: Plan, running: RunningStage, device: torch.device, training: bool) -> None:
    stage, size = running.stage, plan.batch.largest
    tensors_after = {boundary.left: boundary.tensors for boundary in plan.boundaries}
    inputs = {tensor.name: tensor for tensor in plan.inputs}
    received = [_zeros(t, size, device) for t in tensors_after.get(stage.index - 1, [])]
    batch = [_zeros(inputs[name], size, device) for name in stage.batch_inputs]
    running.begin(1, 0, [size])
    running.forward(0, received, batch, 1.0, grad=training)
    if training:
        sent = [t for t in tensors_after.get(stage.index, []) if t.needs_grad]
        running.backward(0, [_zeros(tensor, size, device) for tensor in sent])


def _zeros(tensor: Tensor, microbatch: Sizes, device: torch.device) -> torch.Tensor:
    """Zeros with the layout in memory of what the transport receives."""
    sizes = tensor.sizes(microbatch)
    order = tensor.order or list(range(len(sizes)))
    in_memory = [sizes[dimension] for dimension in order]
    zeros = torch.zeros(in_memory, dtype=getattr(torch, tensor.dtype), device=device)
    return zeros.permute([order.index(dimension) for dimension in range(len(order))])
