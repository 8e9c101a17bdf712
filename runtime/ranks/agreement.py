"""What every rank must have alike before the first step: one plan, one software, one model, one way to go on."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

import pipecut
from pipecut.model.weights import weights_digest
from pipecut.plan.folder import PlanFolder
from pipecut.plan.sources import hashes_here
from pipecut.runtime.health.timeouts import start_timeout
from pipecut.runtime.ranks.meeting import Facts, Meeting

REMEDIES = {
    "plan": "copy one plan folder to every host (pipecut compile once, not once per host)",
    "software": "install the same versions of pipecut and torch on every host",
    "model": "give every host the same files of the model",
    "weights": "give every host the same weights",
    "run": "start every host with the same arguments, and keep the checkpoints where every host sees them",
}
# Enough of a hash to tell two apart.
SHORT = 12
# Parts of plan.yaml that are compared by their file's hash alone: long, or different for no reason of a run.
LONG = {
    "stages",
    "boundaries",
    "tied",
    "inputs",
    "notes",
    "hashes",
    "seal",
    "prediction",
    "certificate",
    "source",
}


def agree_to_start(
    meeting: Meeting,
    folder: PlanFolder,
    device: str | None,
    restoring: bool,
    run: Mapping[str, str],
) -> None:
    """Compare everything that a start depends on with all ranks. Raises DisagreementError on every rank.

    When `restoring`, values come from a checkpoint. `run` has what else must be alike, such as the learning rate.
    """
    if meeting.size == 1:
        return
    model = folder.plan.model
    # A host that draws no values needs none of the model's files.
    drawn = model.weights is None and not restoring
    facts: Facts = {
        "plan": _plan_facts(folder),
        "software": {
            "pipecut": f"{pipecut.__version__} ({_code()})",
            "torch": str(torch.__version__),
        },
        "model": hashes_here(model) if drawn else {},
        "weights": {"weights": weights_digest(Path(model.weights))[:SHORT]}
        if model.weights and not restoring
        else {},
        "run": {"--device": device or "as planned", "restoring": str(restoring), **run},
    }
    meeting.agree("what the ranks run", facts, REMEDIES, start_timeout())


def _plan_facts(folder: PlanFolder) -> dict[str, str]:
    """The seal, every file's hash, and the short values of plan.yaml, so that a message can name what differs."""
    plan = folder.plan
    facts = {name: text[:SHORT] for name, text in plan.hashes.items()}
    facts["plan.yaml"] = plan.seal[:SHORT]
    facts["ranks"] = str(plan.ranks)
    for key, value in plan.model_dump(mode="json", exclude=LONG).items():
        nested = (
            {f"{key}.{name}": v for name, v in value.items()}
            if isinstance(value, dict)
            else {key: value}
        )
        facts |= {
            name: _text(value)
            for name, value in nested.items()
            if name not in ("model.folders", "model.weights")
        }
    return facts


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return (
        text
        if len(text) <= 80
        else f"{text[:60]}... ({hashlib.sha256(text.encode()).hexdigest()[:SHORT]})"
    )


@cache
def _code() -> str:
    """Of the files that run a plan: a version number stays while a checkout changes."""
    package = Path(pipecut.__file__).parent
    files = [
        f for room in ("plan", "model", "runtime") for f in sorted((package / room).rglob("*.py"))
    ]
    content = b"".join(file.name.encode() + file.read_bytes() for file in files)
    return hashlib.sha256(content).hexdigest()[:SHORT]
