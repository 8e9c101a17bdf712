"""What a user did to a rank's parameters between steps, where the plan cannot follow it."""

from collections.abc import Iterable

import torch
from torch import nn

from pipecut.errors import RunError
from pipecut.plan.schema import StageTensor

ELSEWHERE = "write what pipe.named_parameters() gives, or call pipe.load_state_dict"


def check_unchanged(
    held: Iterable[StageTensor],
    parameters: dict[str, nn.Parameter],
    stepped: dict[str, nn.Parameter],
    written: Iterable[int],
) -> None:
    """Of each parameter by its first name: what the stages have, and what the optimizer has of it.

    `written` are ids of those that were written past their masters. Raises RunError with a remedy.
    """
    past = set(written)
    for one in held:
        name = one.names[0]
        parameter, own = parameters[name], stepped[name]
        if not parameter.requires_grad == own.requires_grad == one.trainable:
            now = "takes no gradient any more" if one.trainable else "takes a gradient now"
            raise RunError(
                f"parameter '{name}' {now}, which the plan was not compiled for; "
                "set requires_grad in the model's factory and compile again"
            )
        if id(parameter) in past:
            raise RunError(
                f"parameter '{name}' was written in the stage, where its {own.dtype} master "
                f"replaces it in the next step; {ELSEWHERE}"
            )
        if own is not parameter and (own._backward_hooks or own._post_accumulate_grad_hooks):
            raise RunError(
                f"parameter '{name}' has a hook that is never called, since its gradient is added up "
                "by hand; change gradients between pipe.step and optimizer.step instead"
            )


@torch.no_grad()
def load_values(
    state: dict[str, torch.Tensor],
    held: Iterable[StageTensor],
    targets: dict[str, torch.Tensor],
    rows: dict[str, tuple[int, int]],
) -> None:
    """Copy a state dict's values into a rank's tensors, of divided ones its rows.

    Raises RunError for a missing name or another shape.
    """
    for one in held:
        name = next((name for name in one.names if name in state), None)
        if name is None:
            raise RunError(f"load_state_dict: '{one.names[0]}' of this rank is missing")
        value = state[name]
        if list(value.shape) != one.shape:
            raise RunError(
                f"load_state_dict: '{name}' is {list(value.shape)}, the plan has {one.shape}"
            )
        own = rows.get(one.names[0])
        targets[one.names[0]].copy_(value if own is None else value[slice(*own)])
