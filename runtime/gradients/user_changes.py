"""What a user did to a rank's parameters between steps, where the plan cannot follow it."""

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import nn

from pipecut.errors import RunError
from pipecut.plan.rows import Rows
from pipecut.plan.schema import StageTensor
from pipecut.runtime.gradients.parameters import RankParameter

ELSEWHERE = "write to what pipe.named_parameters() returns, or call pipe.load_state_dict"


def check_unchanged(
    parameters: Iterable[RankParameter], written: Collection[RankParameter]
) -> None:
    """Raise RunError, with a remedy, for a change of a parameter that the stages cannot follow.

    `written` are those whose stage tensor was written past its master.
    """
    for parameter in parameters:
        name, stepped = parameter.name, parameter.stepped
        as_compiled = parameter.trainable
        if not parameter.model.requires_grad == stepped.requires_grad == as_compiled:
            now = "takes no gradient any more" if as_compiled else "takes a gradient now"
            raise RunError(
                f"parameter '{name}' {now}, which the plan was not compiled for; "
                "set requires_grad in the model's factory and compile again"
            )
        if parameter in written:
            raise RunError(
                f"parameter '{name}' was written in the stage, where its {stepped.dtype} master "
                f"replaces it in the next step; {ELSEWHERE}"
            )
        if stepped is not parameter.model and _has_hooks(stepped):
            raise RunError(
                f"parameter '{name}' has a hook that is never called, since its gradient is added "
                "up by hand; change gradients between pipe.step and optimizer.step instead"
            )


def _has_hooks(parameter: nn.Parameter) -> bool:
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


@torch.no_grad()
def load_value(
    state: Mapping[str, torch.Tensor],
    tensor: StageTensor,
    target: torch.Tensor,
    rows: Rows | None,
) -> None:
    """Copy a value of a state dict into a rank's tensor, or `rows` of it.

    Raises RunError where the name is missing or the shape differs.
    """
    name = next((name for name in tensor.names if name in state), None)
    if name is None:
        raise RunError(f"load_state_dict: '{tensor.names[0]}' of this rank is missing")
    value = state[name]
    if list(value.shape) != tensor.shape:
        raise RunError(
            f"load_state_dict: '{name}' is {list(value.shape)}, the plan has {tensor.shape}"
        )
    target.copy_(value if rows is None else value[slice(*rows)])
