"""What must be the same where a training goes on from a checkpoint, and what is reported.

Parameters and the optimizer must be the same. Precision, seed, batch, data, loss and clipping may
be changed on purpose, so the training goes on, and what changed is reported. These are its recipe.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from pipecut.errors import CheckpointError, OtherTrainingError
from pipecut.plan.schema import Plan
from pipecut.runtime.checkpoint.manifest import Manifest, spoken

# Entries of a recipe that may change, as a job file or an option calls them.
CHANGEABLE = {
    "factory": "the model's factory",
    "args": "the factory's arguments",
    "precision": "precision",
    "seed": "seed",
    "global_batch": "the global batch",
    "loss": "loss",
    "terms": "what the loss is the mean over",
    "data": "--data",
    "clip": "--clip",
    "lr_schedule": "lr_schedule",
}


def recipe_of(
    plan: Plan, optimizer: torch.optim.Optimizer | None, beyond_plan: Mapping[str, Any]
) -> dict[str, Any]:
    """A training's recipe in plain values; `beyond_plan` is what the plan does not know of it."""
    terms = plan.batch.terms
    return {
        "optimizer": type(optimizer).__name__ if optimizer is not None else None,
        "precision": plan.model.precision,
        "seed": plan.model.seed,
        "global_batch": plan.batch.global_size,
        "loss": plan.model.loss,
        "terms": terms.model_dump() if terms is not None else None,
        "lr_schedule": plan.lr_schedule.model_dump() if plan.lr_schedule is not None else None,
        **beyond_plan,
    }


def refuse_other_model(where: str, plan: Plan, manifest: Manifest) -> None:
    """Raise OtherTrainingError where parameters or buffers are not those of the plan."""
    in_plan = {f"parameter/{p.names[0]}" for stage in plan.stages for p in stage.parameters}
    in_plan |= {
        f"buffer/{buffer.names[0]}"
        for stage in plan.stages
        for buffer in stage.buffers
        if buffer.persistent or buffer.written
    }
    in_checkpoint = {
        name for name in manifest.names if name.partition("/")[0] in ("parameter", "buffer")
    }
    in_checkpoint |= {f"parameter/{name}" for name in manifest.frozen}
    factory = plan.model.factory
    if in_checkpoint - in_plan:
        extra = _listed(in_checkpoint - in_plan)
        difference = f"has {extra}, which the model of {factory} has not"
    elif in_plan - in_checkpoint:
        missing = _listed(in_plan - in_checkpoint)
        difference = f"has no {missing}, which the model of {factory} has"
    else:
        return
    raise OtherTrainingError(
        f"{where} is of another model, made by {manifest.model.get('factory')}: it {difference}; "
        "compile the model that it is of, or give --checkpoints another folder"
    )


def refuse_trained(where: str, plan: Plan, manifest: Manifest) -> None:
    """Raise OtherTrainingError where the plan trains what the checkpoint leaves out as frozen."""
    parameters = (parameter for stage in plan.stages for parameter in stage.parameters)
    trained = {p.names[0] for p in parameters if p.trainable}
    names = [f"parameter/{name}" for name in manifest.frozen if name in trained]
    if names:
        raise OtherTrainingError(
            f"{where} has trained parameters alone; {_listed(names)} was frozen then, and this "
            "plan trains it; compile it frozen as it was, or go on from a checkpoint that was "
            "written without --trained-only"
        )


def refuse_other_optimizer(
    where: str, manifest: Manifest, optimizer: torch.optim.Optimizer, kind: str | None
) -> None:
    """Raise OtherTrainingError where the checkpoint is of another optimizer.

    `kind` is what job files call this one, where that is known.
    """
    recipe = manifest.training.recipe
    pairs = [(recipe.get("optimizer"), type(optimizer).__name__)]
    pairs += [(recipe.get("kind"), kind)] if kind is not None else []
    for saved, current in pairs:
        if saved is not None and saved != current:
            raise OtherTrainingError(
                f"{where} is of a training with the optimizer {saved}, this one has {current}, "
                "whose states are others; compile with the optimizer that it was trained with, or "
                "begin a new training: pipecut export writes the checkpoint's weights, weights: in "
                "the job file takes them"
            )
    groups = len(optimizer.param_groups)
    if len(manifest.groups) != groups:
        raise OtherTrainingError(
            f"{where}: the optimizer has {groups} parameter groups, the checkpoint "
            f"{len(manifest.groups)}; make it as it was made then"
        )


def refuse_diverged(where: str, manifest: Manifest) -> None:
    """Raise CheckpointError where values are infinite or NaN."""
    if not manifest.finite:
        raise CheckpointError(
            f"{where} has values that are no finite numbers: its training had diverged; move it "
            "out of the folder to go on from the checkpoint before it"
        )


def changes(manifest: Manifest, plan: Plan, beyond_plan: Mapping[str, Any]) -> list[str]:
    """A line for each changeable entry of the recipe that has another value in the checkpoint."""
    saved = {**manifest.model, **manifest.training.recipe}
    model = {"factory": plan.model.factory, "args": plan.model.args}
    current = {**model, **recipe_of(plan, None, beyond_plan)}
    return [
        f"{name} is {_shown(current[key])}, it was {_shown(saved[key])} "
        "when the checkpoint was written"
        for key, name in CHANGEABLE.items()
        if key in current and key in saved and current[key] != saved[key]
    ]


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


def _listed(names: Iterable[str]) -> str:
    in_order = sorted(spoken(name) for name in names)
    return in_order[0] + (f" and {len(in_order) - 1} more" if len(in_order) > 1 else "")
