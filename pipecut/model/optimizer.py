"""The optimizer of a plan, as torch.optim has it."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pipecut.device.types import type_of
from pipecut.errors import PlanError
from pipecut.plan.schema import Optimizer

# Classes with a fused form on GPUs that does what the others do.
FUSED = ("Adam", "AdamW", "SGD")


def make_optimizer(
    optimizer: Optimizer,
    named: Iterable[tuple[str, nn.Parameter]],
    rate: float | None = None,
    least_eps: float = 0.0,
) -> torch.optim.Optimizer:
    """An optimizer of torch.optim over parameters by FQN; on a GPU its fused form.

    `rate` replaces the learning rate that the arguments have; eps is raised to `least_eps`.
    Parameters that `no_decay` has are a second group. Raises PlanError where torch refuses.

    The fused form is one kernel over all parameters, with the step count on the device, so that the
    host waits for nothing. The default there works on lists of tensors, and allocates copies of
    them as large as the gradients: a class without a fused form steps one parameter at a time.
    """
    stepped = list(named)
    kind = optimizer.kind
    arguments: dict[str, Any] = dict(optimizer.all_arguments)
    if rate is not None:
        arguments["lr"] = rate
    if stepped and all(fusible(parameter) for _, parameter in stepped):
        arguments |= {"fused": True} if kind.torch_name in FUSED else {"foreach": False}
    make: Any = getattr(torch.optim, kind.torch_name)
    try:
        made: torch.optim.Optimizer = make(_groups(optimizer, stepped), **arguments)
    except Exception as error:
        # Torch looks into some arguments before it judges them.
        raise PlanError(
            f"torch.optim.{kind.torch_name} refuses the plan's arguments: {error}; compile again"
        ) from None
    for group in made.param_groups:
        if kind.elementwise and isinstance(group.get("eps"), float):
            group["eps"] = max(group["eps"], least_eps)
    return made


def _groups(optimizer: Optimizer, named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    """Both groups on every rank, of which one may be empty: checkpoints compare them."""
    if not optimizer.no_decay:
        return [{"params": [parameter for _, parameter in named]}]
    decaying = [parameter for name, parameter in named if optimizer.decays(name)]
    others = [parameter for name, parameter in named if not optimizer.decays(name)]
    return [{"params": decaying}, {"params": others, "weight_decay": 0.0}]


def fusible(parameter: torch.Tensor) -> bool:
    """Whether torch's fused optimizers take a parameter, and step it as the others do."""
    return type_of(parameter.device).fused_optimizers and parameter.is_floating_point()


def learning_rate(optimizer: Optimizer) -> float:
    """The full learning rate: of the arguments, or the class's own."""
    make = getattr(torch.optim, optimizer.kind.torch_name)
    own = inspect.signature(make).parameters["lr"].default
    return float(optimizer.all_arguments.get("lr", own))
