"""The model that the factory builds now, compared with the one that a plan was compiled from."""

from collections import defaultdict
from typing import NamedTuple

from torch import nn

from pipecut.errors import RunError
from pipecut.model.precision import cast_model
from pipecut.plan.schema import Plan


class _Parameter(NamedTuple):
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    # All its names, in order.
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}{'' if self.trainable else ', frozen'}"


def refuse_other_parameters(plan: Plan, model: nn.Module) -> None:
    """Raises RunError where names, shapes, dtypes, ties or what is trained differ. `model` is on meta, and is cast."""
    here, there = _of_model(cast_model(model, plan.model.precision)), _of_plan(plan)
    told = []
    new, gone = sorted(set(here) - set(there)), sorted(set(there) - set(here))
    if new or gone:
        told += [f"it has {_some(new)}, which the plan has not"] if new else []
        told += [f"it has no {_some(gone)}"] if gone else []
    for name in sorted(set(here) & set(there)):
        now, then = here[name], there[name]
        if now[:3] != then[:3]:
            told.append(f"'{name}' is {now}, in the plan {then}")
        elif now.names != then.names and not (new or gone):
            told.append(f"'{name}' is {_tied(now)}, in the plan {_tied(then)}")
    if told:
        more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
        raise RunError(
            f"{plan.model.factory} builds another model than was compiled: {'; '.join(told[:3])}{more}; compile again"
        )


def _some(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )


def _tied(parameter: _Parameter) -> str:
    return (
        f"one with {', '.join(parameter.names[1:])}" if len(parameter.names) > 1 else "on its own"
    )


def _of_model(model: nn.Module) -> dict[str, _Parameter]:
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return {
        name: _Parameter(
            tuple(p.shape),
            str(p.dtype).removeprefix("torch."),
            p.requires_grad,
            tuple(sorted(names[id(p)])),
        )
        for name, p in model.named_parameters(remove_duplicate=False)
    }


def _of_plan(plan: Plan) -> dict[str, _Parameter]:
    return {
        name: _Parameter(tuple(held.shape), held.dtype, held.trainable, tuple(sorted(held.names)))
        for stage in plan.stages
        for held in stage.parameters
        for name in held.names
    }
