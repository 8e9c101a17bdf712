"""What must be equal on all ranks before the first step: plan, software, model, arguments."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from pipecut import version
from pipecut.model.weights import weights_digest
from pipecut.plan.schema import Plan
from pipecut.plan.sources import hashes_here
from pipecut.runtime.health.timeouts import start_timeout
from pipecut.runtime.ranks.agree.meeting import Compared, Meeting
from pipecut.version import __version__

REMEDIES = {
    "plan": "copy one plan folder to every host (pipecut compile once, not once per host)",
    "software": "install the same versions of pipecut and torch on every host",
    "model": "give every host the same files of the model",
    "weights": "give every host the same weights",
    "run": "start every host with the same arguments, and keep the checkpoints "
    "where every host sees them",
}
# Digits of a hash in messages.
SHORT = 12
# Parts of plan.yaml that only its hash compares: they are long, or say nothing of a run.
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


# Values of plan.yaml that are paths of a host.
OF_HOST = ("model.folders", "model.weights")
# Folders of the package that run a plan.
RUNNING = ("plan", "model", "device", "runtime")


def agree_to_start(
    meeting: Meeting,
    plan: Plan,
    device: str | None,
    restoring: bool,
    run: Mapping[str, str],
) -> None:
    """Compare all that a start depends on between ranks. Raises DisagreementError on every rank.

    When `restoring`, values come from a checkpoint. `run` has what else must be equal, such as the
    learning rate.
    """
    if meeting.size == 1:
        return
    model = plan.model
    # A host that draws no values needs no file of the model.
    drawn = model.weights is None and not restoring
    compared: Compared = {
        "plan": plan_values(plan),
        "software": {
            "pipecut": f"{__version__} ({_code()})",
            "torch": str(torch.__version__),
        },
        "model": hashes_here(model) if drawn else {},
        "weights": {"weights": weights_digest(Path(model.weights))[:SHORT]}
        if model.weights and not restoring
        else {},
        "run": {"--device": device or "as planned", "restoring": str(restoring), **run},
    }
    meeting.agree("what the ranks run", compared, REMEDIES, start_timeout())


def plan_values(plan: Plan) -> dict[str, str]:
    """The seal, every file's hash, and short values of plan.yaml, so that a message names them."""
    values = {name: text[:SHORT] for name, text in plan.hashes.items()}
    values["plan.yaml"] = plan.seal[:SHORT]
    values["ranks"] = str(plan.ranks)
    for key, value in plan.model_dump(mode="json", exclude=LONG).items():
        nested = (
            {f"{key}.{name}": v for name, v in value.items()}
            if isinstance(value, dict)
            else {key: value}
        )
        values |= {name: _text(value) for name, value in nested.items() if name not in OF_HOST}
    return values


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return (
        text
        if len(text) <= 80
        else f"{text[:60]}... ({hashlib.sha256(text.encode()).hexdigest()[:SHORT]})"
    )


@cache
def _code() -> str:
    """A hash of the files that run a plan: a version number stays while a checkout changes."""
    package = Path(version.__file__).parent
    files = [f for folder in RUNNING for f in sorted((package / folder).rglob("*.py"))]
    content = b"".join(file.name.encode() + file.read_bytes() for file in files)
    return hashlib.sha256(content).hexdigest()[:SHORT]
