"""The job file's `optimizer:`: a class of torch.optim by its name, with its own arguments."""

import difflib
import inspect
import math
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, ConfigDict, Field
from torch import nn

from pipecut.compiler.inputs.document.positions import KEY, location_of
from pipecut.compiler.inputs.document.schema import FileSchema, Written
from pipecut.compiler.inputs.units import number_in
from pipecut.errors import UserFileError
from pipecut.plan.schema import KINDS, Optimizer

OWN_LOOP = "step it in a loop of your own (docs/own-loop.md)"
# Classes of torch.optim that no plan trains with.
REFUSED = {
    "lbfgs": f"computes the loss many times a step, over all parameters together; {OWN_LOOP}",
    "sparseadam": f"takes sparse gradients only; use adam, or {OWN_LOOP}",
}
# How a step is computed, which does not change its result and follows from the device.
HOW = ("foreach", "fused", "capturable", "differentiable")


def _known_name(value: Any) -> Any:
    """In lower-case letters, as job files have it. Raises ValueError."""
    if not isinstance(value, str):
        return value
    name = value.lower()
    if name in REFUSED:
        raise ValueError(f"{name} {REFUSED[name]}")
    if name not in KINDS:
        close = difflib.get_close_matches(name, KINDS, 1)
        remedy = f"did you mean {close[0]}?" if close else f"they are {', '.join(KINDS)}"
        raise ValueError(f"{value} is no optimizer that pipecut knows of torch.optim; {remedy}")
    return name


class OptimizerKeys(FileSchema):
    """A class of torch.optim by its name. The other keys are the arguments of that class, such as
    `lr`, `betas` and `weight_decay`, with its own defaults.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: Annotated[
        str,
        BeforeValidator(_known_name),
        Written(f"{', '.join(f'`{name}`' for name in KINDS)}"),
    ] = Field(
        description="The class. `momentum` is `sgd` with a momentum of 0.9.", examples=["adamw"]
    )
    no_decay: list[str] = Field(
        default=[],
        description="Patterns of parameters whose weight_decay is 0: `*` stands for any letters.",
        examples=['["*.bias", "*norm*"]'],
    )

    @property
    def in_plan(self) -> Optimizer:
        """As a plan has it."""
        return Optimizer.model_validate(
            {"name": self.name, "arguments": self.arguments, "no_decay": self.no_decay}
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of the class that the file gives."""
        return {name: number_in(value) for name, value in (self.model_extra or {}).items()}


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


OptimizerByName = Annotated[
    OptimizerKeys,
    BeforeValidator(_by_name),
    Written("a name, or keys, see below", lambda keys: keys.name),
]


def check_arguments(path: Path, keys: OptimizerKeys) -> None:
    """Compare the arguments with the class's signature, and let the class judge their values.

    Raises UserFileError with the position of the argument that is wrong.
    """
    name = keys.name
    make: Any = getattr(torch.optim, KINDS[name].torch_name, None)
    if make is None:
        raise UserFileError(
            f"{location_of(path, 'optimizer')}: torch {torch.__version__} has no "
            f"{KINDS[name].torch_name}; use another optimizer, or a newer torch"
        )
    takes = inspect.signature(make).parameters
    for key, value in keys.arguments.items():
        if key == "params" or key in HOW or key not in takes:
            raise UserFileError(
                f"{location_of(path, 'optimizer', key, KEY)}: {_unknown(name, key, takes)}"
            )
        problem = _kind_problem(takes[key].default, value)
        problem = problem or _problem(make, {**KINDS[name].preset, key: _as_tuple(value)})
        if problem is not None:
            location = location_of(path, "optimizer", key)
            raise UserFileError(f"{location}: optimizer.{key}: {problem}")
    together = keys.in_plan.all_arguments
    problem = _problem(make, together)
    if problem is not None:
        raise UserFileError(f"{location_of(path, 'optimizer')}: optimizer: {problem}")
    decay = together.get("weight_decay", getattr(takes.get("weight_decay"), "default", 0))
    if keys.no_decay and not decay:
        raise UserFileError(
            f"{location_of(path, 'optimizer', 'no_decay', KEY)}: optimizer.no_decay: {name} decays "
            "nothing here; give weight_decay, such as 0.1, or leave no_decay out"
        )


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _unknown(name: str, key: str, takes: Any) -> str:
    if key in HOW:
        return f"optimizer.{key}: pipecut chooses it by the device; leave it out"
    known = [argument for argument in takes if argument != "params" and argument not in HOW]
    close = difflib.get_close_matches(key, [*known, "no_decay"], 1)
    remedy = f"did you mean '{close[0]}'?" if close else f"it takes {', '.join(known)}"
    return f"torch.optim.{KINDS[name].torch_name} has no argument '{key}'; {remedy}"


def _kind_problem(default: Any, value: Any) -> str | None:
    """Where the value is of another kind than the argument's default."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else f"must be true or false (found {value!r})"
    if isinstance(default, tuple):
        if not isinstance(value, list) or len(value) != len(default):
            return f"must be a list of {len(default)} numbers, as {list(default)} (found {value!r})"
        numbers = [part for part, usual in zip(value, default, strict=True) if usual is not None]
        wrong = next((part for part in numbers if not _is_number(part)), None)
        return None if wrong is None else f"must have numbers only (found {wrong!r})"
    if isinstance(default, int | float):
        return None if _is_number(value) else f"must be a number (found {value!r})"
    return None


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _problem(make: Any, arguments: dict[str, Any]) -> str | None:
    """What the class itself says against arguments, with one small matrix to step."""
    try:
        make([nn.Parameter(torch.zeros(1, 1))], **arguments)
    except (ValueError, TypeError, RuntimeError) as error:
        return f"torch.optim.{make.__name__} says: {error}"
    return None
