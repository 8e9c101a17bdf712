"""What a rank has of a training, as tensors by name and plain values: and back.

`parameter/FQN`, `buffer/FQN`, `optimizer/STATE/FQN` for tensors; the optimizer's options by group as JSON.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from pipecut.errors import CheckpointError
from pipecut.runtime.shards import Rows

Named = dict[str, nn.Parameter]


def tensors_of(
    parameters: Named,
    buffers: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer | None,
    rows: Mapping[str, Rows],
) -> tuple[dict[str, torch.Tensor], dict[str, Rows]]:
    """Those to save, and what rows of them these are where that is not all; `rows` are those of parameters.

    Raises CheckpointError for a state that is no tensor, or that has other rows than its parameter.
    """
    divided = {f"parameter/{name}": own for name, own in rows.items() if name in parameters}
    found = {f"parameter/{name}": p.detach() for name, p in parameters.items()}
    found |= {f"buffer/{name}": b for name, b in buffers.items()}
    for name, parameter in parameters.items():
        for key, value in (optimizer.state.get(parameter, {}) if optimizer is not None else {}).items():
            if isinstance(value, torch.Tensor):
                found[f"optimizer/{key}/{name}"] = value.detach()
                if name in rows and value.dim():
                    if value.shape != parameter.shape:
                        raise CheckpointError(
                            f"the optimizer keeps {key} of {name} as {list(value.shape)} for {list(parameter.shape)}: it "
                            "does not step every value by itself, so it needs optimizer_state: replicate"
                        )
                    divided[f"optimizer/{key}/{name}"] = rows[name]
            elif value is not None:
                raise CheckpointError(f"the optimizer keeps {key} of {name} as {type(value).__name__}; only tensors can be saved")
    return found, divided


def groups_of(parameters: Named, optimizer: torch.optim.Optimizer | None) -> list[dict[str, Any]]:
    """Options of each parameter group, and the names of this rank's parameters in it."""
    names = {id(p): name for name, p in parameters.items()}
    groups = []
    for group in optimizer.param_groups if optimizer is not None else []:
        options = {key: float(v) if isinstance(v, torch.Tensor) else v for key, v in group.items() if key != "params"}
        groups.append({"options": options, "names": [names[id(p)] for p in group["params"] if id(p) in names]})
    return groups


def wanted_states(parameters: Named, saved: Iterable[str]) -> dict[str, list[str]]:
    """By parameter name, the optimizer's states that were saved."""
    found: dict[str, list[str]] = {name: [] for name in parameters}
    for key in saved:
        kind, _, rest = key.partition("/")
        state, _, name = rest.partition("/")
        if kind == "optimizer" and name in found:
            found[name].append(state)
    return found


def put_back(
    values: dict[str, torch.Tensor],
    parameters: Named,
    buffers: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer | None,
    groups: list[dict[str, Any]],
) -> None:
    """The reverse of `tensors_of` and `groups_of`. Raises CheckpointError where shapes or groups differ."""
    with torch.no_grad():
        for kind, own in (("parameter", dict(parameters)), ("buffer", buffers)):
            for name, tensor in own.items():
                value = values[f"{kind}/{name}"]
                if value.shape != tensor.shape:
                    raise CheckpointError(f"{kind} {name} is {list(tensor.shape)}, in the checkpoint {list(value.shape)}")
                tensor.copy_(value)
    if optimizer is None:
        return
    if len(groups) != len(optimizer.param_groups):
        here, there = len(optimizer.param_groups), len(groups)
        raise CheckpointError(f"the optimizer has {here} parameter groups, the checkpoint {there}; make it as it was made then")
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        for key, value in saved["options"].items():
            # Sequences come back as lists.
            group[key] = tuple(value) if isinstance(group.get(key), tuple) else value
    for name, states in wanted_states(parameters, values).items():
        if states:
            parameter, found = parameters[name], {key: values[f"optimizer/{key}/{name}"] for key in states}
            # Step counts stay on the CPU, as torch.optim makes them; the rest is where the parameter is.
            optimizer.state[parameter] = {
                key: value.clone() if value.dim() == 0 else value.to(parameter.device) for key, value in found.items()
            }
