"""What a rank has of a training, as tensors by name and plain values: and back.

`parameter/FQN`, `buffer/FQN`, `optimizer/STATE/FQN` for tensors; the optimizer's options by group as JSON.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import nn

from pipecut.errors import CheckpointError
from pipecut.plan.rows import Rows
from pipecut.runtime.checkpoint.files import Group

Named = dict[str, nn.Parameter]
# Of these any stands for any other; the rest must be as it was.
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
# What an optimizer of torch.optim cannot do a second step without, and which of it is as large as
# the parameter.
STATES = {name: {"step", "exp_avg", "exp_avg_sq"} for name in ("Adam", "AdamW")}
OF_EVERY_VALUE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
# How a step is done where it is done, not what comes of it.
ON_THIS_DEVICE = ("foreach", "fused", "capturable", "differentiable")
# What a scheduler changes, and `pipecut run` says itself.
RATES = ("lr", "initial_lr")


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
        for key, value in (
            optimizer.state.get(parameter, {}) if optimizer is not None else {}
        ).items():
            if isinstance(value, torch.Tensor):
                found[f"optimizer/{key}/{name}"] = value.detach()
                if name in rows and value.dim():
                    if value.shape != parameter.shape:
                        raise CheckpointError(
                            f"the optimizer keeps {key} of {name} as {list(value.shape)} for {list(parameter.shape)}: it "
                            "does not step every value by itself, so it needs shard_optimizer: false"
                        )
                    divided[f"optimizer/{key}/{name}"] = rows[name]
            elif value is not None:
                raise CheckpointError(
                    f"the optimizer keeps {key} of {name} as {type(value).__name__}; only tensors can be saved"
                )
    return found, divided


def groups_of(parameters: Named, optimizer: torch.optim.Optimizer | None) -> list[dict[str, Any]]:
    """Options of each parameter group, and the names of this rank's parameters in it."""
    names = {id(p): name for name, p in parameters.items()}
    groups = []
    for group in optimizer.param_groups if optimizer is not None else []:
        options = {
            key: float(v) if isinstance(v, torch.Tensor) else v
            for key, v in group.items()
            if key != "params"
        }
        groups.append(
            {"options": options, "names": [names[id(p)] for p in group["params"] if id(p) in names]}
        )
    return groups


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The first tensor that has a value which is no number, or an infinite one that is trained."""
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        # A mask in a buffer may be infinite.
        trained = not name.startswith("buffer/")
        if not bool((torch.isfinite(tensor) if trained else ~torch.isnan(tensor)).all()):
            return name
    return None


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
    where: str,
    values: dict[str, torch.Tensor],
    parameters: Named,
    buffers: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer | None,
    groups: Sequence[Group],
) -> list[str]:
    """The reverse of `tensors_of` and `groups_of`, once all of it was seen to fit.

    Returns what the checkpoint has otherwise than the optimizer. Raises CheckpointError.
    """
    own = {f"parameter/{name}": p.detach() for name, p in parameters.items()}
    own |= {f"buffer/{name}": buffer for name, buffer in buffers.items()}
    for name, tensor in own.items():
        _check_fits(where, name, values[name], tensor)
    wrong = not_finite(values)
    if wrong is not None:
        raise CheckpointError(
            f"{where}: {wrong.replace('/', ' ', 1)} has values that are no finite numbers; go on from a checkpoint before it"
        )
    notes = []
    if optimizer is not None:
        states = wanted_states(parameters, values)
        _check_states(where, optimizer, values, parameters, states)
        _check_groups(where, optimizer, parameters, groups)
        notes = _take_options(where, optimizer, groups)
        _take_states(optimizer, values, parameters, states)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(values[name])
    return notes


def _check_fits(where: str, name: str, value: torch.Tensor, tensor: torch.Tensor) -> None:
    said = name.replace("/", " ", 1)
    if value.shape != tensor.shape:
        raise CheckpointError(
            f"{where}: {said} is {list(tensor.shape)}, in the checkpoint {list(value.shape)}"
        )
    if value.dtype != tensor.dtype and not {value.dtype, tensor.dtype} <= FLOATS:
        raise CheckpointError(f"{where}: {said} is {tensor.dtype}, in the checkpoint {value.dtype}")


def _check_states(
    where: str,
    optimizer: torch.optim.Optimizer,
    values: Mapping[str, torch.Tensor],
    parameters: Named,
    states: Mapping[str, list[str]],
) -> None:
    """As far as it is known what states an optimizer has."""
    known = STATES.get(type(optimizer).__name__, set())
    for name, keys in states.items():
        if keys and not known <= set(keys):
            missing = ", ".join(sorted(known - set(keys)))
            raise CheckpointError(f"{where}: the optimizer's {missing} of {name} is missing")
        for key in keys:
            value, parameter = values[f"optimizer/{key}/{name}"], parameters[name]
            like = (
                parameter.shape
                if key in OF_EVERY_VALUE
                else torch.Size([])
                if key == "step"
                else None
            )
            if like is not None and (value.shape != like or not value.is_floating_point()):
                raise CheckpointError(
                    f"{where}: the optimizer's {key} of {name} is {value.dtype}{list(value.shape)}, "
                    f"of which it needs floating-point numbers of shape {list(like)}"
                )


def _check_groups(
    where: str, optimizer: torch.optim.Optimizer, parameters: Named, groups: Sequence[Group]
) -> None:
    """Each parameter in the group it was in."""
    saved = {name: at for at, group in enumerate(groups) for name in group.names}
    for at, group in enumerate(groups_of(parameters, optimizer)):
        for name in group["names"]:
            if saved.get(name) != at:
                there = f"in group {saved[name]}" if name in saved else "in none"
                raise CheckpointError(
                    f"{where}: {name} is in group {at} of the optimizer, in the checkpoint {there}; make it as it was made then"
                )


def _take_options(
    where: str, optimizer: torch.optim.Optimizer, groups: Sequence[Group]
) -> list[str]:
    """Those of the checkpoint, but for how a step is done on this device. Returns what differs."""
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        for key, value in saved.options.items():
            if key in group and key not in ON_THIS_DEVICE and not _same_kind(group[key], value):
                raise CheckpointError(
                    f"{where}: the optimizer's {key} is {group[key]}, in the checkpoint {value}; make it as it was made then"
                )
        _check_ranges(where, optimizer, saved)
    notes = []
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        for key, value in saved.options.items():
            if key in ON_THIS_DEVICE or key == "params":
                continue
            # Sequences come back as lists.
            value = tuple(value) if isinstance(value, list) else value
            if key in group and key not in RATES and group[key] != value:
                notes.append(
                    f"the optimizer's {key} is {value}, as in the checkpoint, not {group[key]}"
                )
            group[key] = value
    return list(dict.fromkeys(notes))


def _check_ranges(where: str, optimizer: torch.optim.Optimizer, saved: Group) -> None:
    """By torch's own optimizers, which look at options only when they are made."""
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim"):
        return
    known = set(inspect.signature(kind).parameters) - set(ON_THIS_DEVICE)
    options = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in saved.options.items()
        if key in known
    }
    try:
        make: Any = kind
        make([nn.Parameter(torch.zeros(1))], **options)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{where}: {kind.__name__} refuses the options it has: {error}"
        ) from None


def _same_kind(here: Any, there: Any) -> bool:
    """Whether one option can stand for the other: numbers for numbers, and switches as they are."""
    if isinstance(here, bool) or isinstance(there, bool) or here is None or there is None:
        return here is there
    if isinstance(here, list | tuple):
        fits = isinstance(there, list | tuple) and len(here) == len(there)
        return fits and all(map(_same_kind, here, there))
    if isinstance(here, int | float | torch.Tensor):
        return isinstance(there, int | float) and isfinite(there)
    return type(here) is type(there)


def _take_states(
    optimizer: torch.optim.Optimizer,
    values: Mapping[str, torch.Tensor],
    parameters: Named,
    states: Mapping[str, list[str]],
) -> None:
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, keys in states.items():
        parameter, own = parameters[name], {}
        group = groups.get(id(parameter), {})
        on_device = bool(group.get("fused") or group.get("capturable"))
        for key in keys:
            value = values[f"optimizer/{key}/{name}"]
            # As torch.optim makes them: step counts stay on the CPU but for what needs them.
            stays = value.dim() == 0 and not on_device
            own[key] = value.clone() if stays else value.to(parameter.device)
        if own:
            optimizer.state[parameter] = own
