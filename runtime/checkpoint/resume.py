"""What must be the same where a training goes on from a checkpoint, and what is said where it is not.

Parameters and the optimizer must be the same. Precision, seed, batch, data, loss and clipping may be
changed on purpose, so that the training goes on, and what changed is said.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from pipecut.errors import OtherTrainingError
from pipecut.plan.schema import Plan
from pipecut.runtime.checkpoint.files import Facts

# What a job file or an option calls it.
SAID = {
    "factory": "the model's factory",
    "args": "the factory's arguments",
    "precision": "precision",
    "seed": "seed",
    "global_batch": "the global batch",
    "loss": "loss",
    "terms": "what the loss is the mean over",
    "data": "--data",
    "clip": "--clip",
}


def made_by(
    plan: Plan, optimizer: torch.optim.Optimizer | None, more: Mapping[str, Any]
) -> dict[str, Any]:
    """By what a training is made, in plain values; `more` is what the plan does not know."""
    terms = plan.batch.terms
    return {
        "optimizer": type(optimizer).__name__ if optimizer is not None else None,
        "precision": plan.model.precision,
        "seed": plan.model.seed,
        "global_batch": plan.batch.global_size,
        "loss": plan.model.loss,
        "terms": terms.model_dump() if terms is not None else None,
        **more,
    }


def refuse_other_model(where: str, plan: Plan, facts: Facts) -> None:
    """Raises OtherTrainingError where the checkpoint has other parameters or buffers than the plan."""
    here = {f"parameter/{held.names[0]}" for stage in plan.stages for held in stage.parameters}
    here |= {
        f"buffer/{held.names[0]}"
        for stage in plan.stages
        for held in stage.buffers
        if held.persistent or held.written
    }
    there = {name for name in facts.names if name.partition("/")[0] in ("parameter", "buffer")}
    for what, names in (
        (f"has {{}}, which the model of {plan.model.factory} has not", there - here),
        (f"has no {{}}, which the model of {plan.model.factory} has", here - there),
    ):
        if names:
            raise OtherTrainingError(
                f"{where} is of another model, made by {facts.model.get('factory')}: it "
                f"{what.format(_listed(names))}; compile the model that it is of, or give "
                "--checkpoints another folder"
            )


def refuse_other_optimizer(
    where: str, facts: Facts, optimizer: torch.optim.Optimizer, kind: str | None
) -> None:
    """Raises OtherTrainingError where the checkpoint is of another optimizer; `kind` as jobs say it."""
    made = facts.rest.made
    pairs = [(made.get("optimizer"), type(optimizer).__name__)]
    pairs += [(made.get("kind"), kind)] if kind is not None else []
    for there, here in pairs:
        if there is not None and there != here:
            raise OtherTrainingError(
                f"{where} is of a training with the optimizer {there}, this one has {here}, whose "
                "states are others; compile with the optimizer that it was trained with, or begin "
                "a new training: pipecut export writes the checkpoint's weights, weights: in the "
                "job file takes them"
            )
    groups = len(optimizer.param_groups)
    if len(facts.groups) != groups:
        raise OtherTrainingError(
            f"{where}: the optimizer has {groups} parameter groups, the checkpoint "
            f"{len(facts.groups)}; make it as it was made then"
        )


def changes(facts: Facts, plan: Plan, more: Mapping[str, Any]) -> list[str]:
    """A line for each that differs from what the checkpoint was made by, and may."""
    there = {**facts.model, **facts.rest.made}
    model = {"factory": plan.model.factory, "args": plan.model.args}
    here = {**model, **made_by(plan, None, more)}
    return [
        f"{said} is {_show(here[key])}, it was {_show(there[key])} when the checkpoint was written"
        for key, said in SAID.items()
        if key in here and key in there and here[key] != there[key]
    ]


def _show(value: Any) -> str:
    return "not given" if value is None else str(value)


def _listed(names: Iterable[str]) -> str:
    first, *others = sorted(name.replace("/", " ", 1) for name in names)
    return f"{first} and {len(others)} more" if others else first
