"""Give an optimizer the states and options that a checkpoint has, once they were seen to fit."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import nn

from pipecut.errors import CheckpointError
from pipecut.runtime.checkpoint.manifest import Group
from pipecut.runtime.checkpoint.rank_tensors import groups_of
from pipecut.runtime.gradients.parameters import RankParameter

# States without which an optimizer of torch.optim cannot do a second step, and those of any that
# are as large as the parameter.
STATES = {
    **{name: {"step", "exp_avg", "exp_avg_sq"} for name in ("Adam", "AdamW", "RAdam")},
    "NAdam": {"step", "exp_avg", "exp_avg_sq", "mu_product"},
    "Adamax": {"step", "exp_avg", "exp_inf"},
    "Adagrad": {"step", "sum"},
    "Adadelta": {"step", "square_avg", "acc_delta"},
    "RMSprop": {"step", "square_avg"},
    "Rprop": {"step", "prev", "step_size"},
    "ASGD": {"step", "eta", "mu", "ax"},
    "Adafactor": {"step"},
    "Muon": {"momentum_buffer"},
}
OF_EVERY_VALUE = (
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "exp_inf", "sum", "square_avg"),
    *("grad_avg", "acc_delta", "prev", "step_size", "ax"),
)
# How a step is done on this device, which does not change its result.
ON_THIS_DEVICE = ("foreach", "fused", "capturable", "differentiable")
# What a scheduler changes, and `pipecut run` reports itself.
RATES = ("lr", "initial_lr")

Tensors = Mapping[str, torch.Tensor]
StatesOf = dict[RankParameter, list[str]]


def saved_states(parameters: Iterable[RankParameter], names: Iterable[str]) -> StatesOf:
    """The optimizer's states of each parameter among a checkpoint's tensors."""
    by_name = {parameter.name: parameter for parameter in parameters}
    states: StatesOf = {parameter: [] for parameter in by_name.values()}
    for name in names:
        kind, _, state_of = name.partition("/")
        state, _, parameter = state_of.partition("/")
        if kind == "optimizer" and parameter in by_name:
            states[by_name[parameter]].append(state)
    return states


def check_optimizer(
    where: str,
    values: Tensors,
    parameters: Sequence[RankParameter],
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Group],
) -> None:
    """Raise CheckpointError where an optimizer cannot take a checkpoint's states and options."""
    required = STATES.get(type(optimizer).__name__, set())
    for parameter, states in saved_states(parameters, values).items():
        if states and not required <= set(states):
            missing = ", ".join(sorted(required - set(states)))
            raise CheckpointError(
                f"{where}: the optimizer's {missing} of {parameter.name} is missing"
            )
        for state in states:
            _check_state(where, state, values[_key(state, parameter)], parameter)
    _check_groups(where, optimizer, parameters, groups)
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        for option, value in _taken(saved).items():
            if option in group and not _same_kind(group[option], value):
                raise CheckpointError(
                    f"{where}: the optimizer's {option} is {group[option]}, in the checkpoint "
                    f"{value}; make it as it was made then"
                )
        _check_ranges(where, optimizer, saved)


def take_options(optimizer: torch.optim.Optimizer, groups: Sequence[Group]) -> list[str]:
    """Give an optimizer a checkpoint's options. Returns a line for each that differed."""
    notes = []
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        for option, value in _taken(saved).items():
            if option in group and option not in RATES and group[option] != value:
                notes.append(
                    f"the optimizer's {option} is {value}, as in the checkpoint, "
                    f"not {group[option]}"
                )
            group[option] = value
    return list(dict.fromkeys(notes))


def take_states(
    optimizer: torch.optim.Optimizer, values: Tensors, parameters: Iterable[RankParameter]
) -> None:
    """Give an optimizer a checkpoint's states, on the devices where torch.optim makes them."""
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    for parameter, names in saved_states(parameters, values).items():
        group = groups.get(parameter.stepped, {})
        counts_on_device = bool(group.get("fused") or group.get("capturable"))
        states = {}
        for name in names:
            value = values[_key(name, parameter)]
            # Step counts stay on the CPU, but for a step that runs as one kernel.
            on_cpu = value.dim() == 0 and not counts_on_device
            states[name] = value.clone() if on_cpu else value.to(parameter.stepped.device)
        if states:
            optimizer.state[parameter.stepped] = states


def _key(state: str, parameter: RankParameter) -> str:
    return f"optimizer/{state}/{parameter.name}"


def _check_state(where: str, state: str, value: torch.Tensor, parameter: RankParameter) -> None:
    """As far as it is known what states an optimizer has."""
    if state in OF_EVERY_VALUE:
        shape = parameter.stepped.shape
    elif state == "step":
        shape = torch.Size([])
    else:
        return
    if value.shape != shape or not value.is_floating_point():
        raise CheckpointError(
            f"{where}: the optimizer's {state} of {parameter.name} is "
            f"{value.dtype}{list(value.shape)}, of which it needs floating-point numbers of shape "
            f"{list(shape)}"
        )


def _check_groups(
    where: str,
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[RankParameter],
    groups: Sequence[Group],
) -> None:
    """Each parameter must be in the group it was in."""
    saved = {name: index for index, group in enumerate(groups) for name in group.names}
    for index, group in enumerate(groups_of(parameters, optimizer)):
        for name in group.names:
            if saved.get(name) != index:
                in_checkpoint = f"in group {saved[name]}" if name in saved else "in none"
                raise CheckpointError(
                    f"{where}: {name} is in group {index} of the optimizer, in the checkpoint "
                    f"{in_checkpoint}; make it as it was made then"
                )


def _taken(saved: Group) -> dict[str, Any]:
    """A group's options, but for how a step is done; JSON has lists for tuples."""
    return {
        option: tuple(value) if isinstance(value, list) else value
        for option, value in saved.options.items()
        if option not in ON_THIS_DEVICE and option != "params"
    }


def _check_ranges(where: str, optimizer: torch.optim.Optimizer, saved: Group) -> None:
    """By torch's own optimizers, which check options only when they are made."""
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim"):
        return
    parameters = inspect.signature(kind).parameters
    options = {option: v for option, v in _taken(saved).items() if option in parameters}
    make: Any = kind
    try:
        make([nn.Parameter(torch.zeros(1, 1))], **options)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{where}: {kind.__name__} refuses the options it has: {error}"
        ) from None


def _same_kind(option: Any, saved: Any) -> bool:
    """Whether one option can stand for the other: numbers for numbers, and switches as they are."""
    if isinstance(option, bool) or isinstance(saved, bool) or option is None or saved is None:
        return option is saved
    if isinstance(option, list | tuple):
        if not isinstance(saved, list | tuple) or len(option) != len(saved):
            return False
        return all(map(_same_kind, option, saved))
    if isinstance(option, int | float | torch.Tensor):
        return isinstance(saved, int | float) and isfinite(saved)
    return type(option) is type(saved)
