"""The model that the factory builds now, compared with the model that a plan was compiled from."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from pipecut.errors import RunError
from pipecut.model.precision import cast_model
from pipecut.plan.schema import Plan

# Names and changes in a message, at most.
LISTED = 3


@dataclass(frozen=True)
class _Parameter:
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    # All names of the parameter, sorted.
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}{'' if self.trainable else ', frozen'}"


def refuse_other_parameters(plan: Plan, model: nn.Module) -> None:
    """Raises RunError where parameters differ: names, shapes, dtypes, ties, or which are trained.

    `model` is on meta, and is cast to the plan's precision.
    """
    built, planned = _of_model(cast_model(model, plan.model.precision)), _of_plan(plan)
    changes = _changes(built, planned)
    if changes:
        count = f"; and {len(changes) - LISTED} more" if len(changes) > LISTED else ""
        raise RunError(
            f"{plan.model.factory} builds another model than was compiled: "
            f"{'; '.join(changes[:LISTED])}{count}; compile again"
        )


def _changes(built: Mapping[str, _Parameter], planned: Mapping[str, _Parameter]) -> list[str]:
    new, gone = sorted(set(built) - set(planned)), sorted(set(planned) - set(built))
    changes = [f"it has {_some(new)}, which the plan has not"] if new else []
    changes += [f"it has no {_some(gone)}"] if gone else []
    for name in sorted(set(built) & set(planned)):
        now, then = built[name], planned[name]
        if str(now) != str(then):
            changes.append(f"'{name}' is {now}, in the plan {then}")
        elif now.names != then.names and not (new or gone):
            changes.append(f"'{name}' is {_tied(now)}, in the plan {_tied(then)}")
    return changes


def _some(names: list[str]) -> str:
    count = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(f"'{name}'" for name in names[:LISTED]) + count


def _tied(parameter: _Parameter) -> str:
    tied = ", ".join(parameter.names[1:])
    return f"one with {tied}" if tied else "on its own"


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
        name: _Parameter(tuple(p.shape), p.dtype, p.trainable, tuple(sorted(p.names)))
        for stage in plan.stages
        for p in stage.parameters
        for name in p.names
    }
