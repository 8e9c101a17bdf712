"""What a rank has of a training, as tensors by name and plain values.

`parameter/FQN`, `buffer/FQN`, `optimizer/STATE/FQN` for tensors; the optimizer's options by group.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from pipecut.errors import CheckpointError
from pipecut.plan.rows import Rows
from pipecut.runtime.checkpoint.manifest import Group
from pipecut.runtime.gradients.parameters import RankParameter
from pipecut.runtime.ranks.world import World


@dataclass(frozen=True)
class RankTensors:
    """Tensors by name. `rows[name] = (first, end)`: that tensor has only rows first..end-1."""

    tensors: dict[str, torch.Tensor]
    rows: dict[str, Rows] = field(default_factory=dict)


def collect(
    parameters: Sequence[RankParameter],
    buffers: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer | None,
) -> RankTensors:
    """Parameters as the optimizer has them, its states of them, and buffers.

    Raises CheckpointError for a state that is no tensor, or that has other rows than its parameter.
    """
    tensors = {f"parameter/{p.name}": p.stepped.detach() for p in parameters}
    tensors |= {f"buffer/{name}": buffer for name, buffer in buffers.items()}
    rows = {f"parameter/{p.name}": p.rows for p in parameters if p.rows is not None}
    for parameter in parameters if optimizer is not None else ():
        assert optimizer is not None
        for name, state in _states(parameter, optimizer):
            tensors[name] = state.detach()
            # A count of steps is whole on every replica.
            if parameter.rows is not None and state.dim():
                rows[name] = parameter.rows
    return RankTensors(tensors, rows)


def _states(
    parameter: RankParameter, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, torch.Tensor]]:
    """The optimizer's states of a parameter by name. Raises CheckpointError."""
    for key, state in optimizer.state.get(parameter.stepped, {}).items():
        if state is None:
            continue
        if not isinstance(state, torch.Tensor):
            raise CheckpointError(
                f"the optimizer keeps {key} of {parameter.name} as {type(state).__name__}; "
                "only tensors can be saved"
            )
        shape = parameter.stepped.shape
        if parameter.rows is not None and state.dim() and state.shape != shape:
            raise CheckpointError(
                f"the optimizer keeps {key} of {parameter.name} as {list(state.shape)} for "
                f"{list(shape)}: it does not step every value by itself, so it needs "
                "shard_optimizer: false"
            )
        yield f"optimizer/{key}/{parameter.name}", state


def random_of_device(world: World) -> str:
    """The name of the state of a rank's random number generator on its device."""
    return f"random_{world.device.type}/{world.rank}"


def groups_of(
    parameters: Sequence[RankParameter], optimizer: torch.optim.Optimizer | None
) -> list[Group]:
    """Options of each parameter group, and the names of this rank's parameters in it."""
    names = {parameter.stepped: parameter.name for parameter in parameters}
    groups = []
    for group in optimizer.param_groups if optimizer is not None else []:
        options = {
            key: float(value) if isinstance(value, torch.Tensor) else value
            for key, value in group.items()
            if key != "params"
        }
        groups.append(Group(options, [names[p] for p in group["params"] if p in names]))
    return groups


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The first tensor that has a NaN, or an infinite value where it is trained."""
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        # A mask in a buffer may be infinite.
        may_be_infinite = name.startswith("buffer/")
        fine = ~torch.isnan(tensor) if may_be_infinite else torch.isfinite(tensor)
        if not bool(fine.all()):
            return name
    return None
