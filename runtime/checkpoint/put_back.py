"""Put a checkpoint's values back into a rank's parameters, buffers and optimizer, once all fit."""

from collections.abc import Mapping, Sequence

import torch

from pipecut.errors import CheckpointError
from pipecut.runtime.checkpoint.manifest import Group, spoken
from pipecut.runtime.checkpoint.optimizer_state import check_optimizer, take_options, take_states
from pipecut.runtime.checkpoint.rank_tensors import not_finite
from pipecut.runtime.gradients.parameters import RankParameter

# Any of these stands for any other; other types must be as they were.
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def put_back(
    where: str,
    values: Mapping[str, torch.Tensor],
    parameters: Sequence[RankParameter],
    buffers: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer | None,
    groups: Sequence[Group],
) -> list[str]:
    """The reverse of `collect` and `groups_of`, all or nothing; what has no value stays as it is.

    Returns a line for each option whose value in the checkpoint is not the optimizer's. Raises
    CheckpointError.
    """
    targets = {f"parameter/{p.name}": p.stepped.detach() for p in parameters}
    targets |= {f"buffer/{name}": buffer for name, buffer in buffers.items()}
    targets = {name: target for name, target in targets.items() if name in values}
    for name, target in targets.items():
        _check_fits(where, name, values[name], target)
    wrong = not_finite(values)
    if wrong is not None:
        raise CheckpointError(
            f"{where}: {spoken(wrong)} has values that are no finite numbers; go on from a "
            "checkpoint before it"
        )
    notes = []
    if optimizer is not None:
        check_optimizer(where, values, parameters, optimizer, groups)
        notes = take_options(optimizer, groups)
        take_states(optimizer, values, parameters)
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(values[name])
    return notes


def _check_fits(where: str, name: str, value: torch.Tensor, target: torch.Tensor) -> None:
    if value.shape != target.shape:
        raise CheckpointError(
            f"{where}: {spoken(name)} is {list(target.shape)}, "
            f"in the checkpoint {list(value.shape)}"
        )
    if value.dtype != target.dtype and not {value.dtype, target.dtype} <= FLOATS:
        raise CheckpointError(
            f"{where}: {spoken(name)} is {target.dtype}, in the checkpoint {value.dtype}"
        )
