"""Whose code a plan runs: asked once of a plan from elsewhere, since to run a plan is to run its stages and its model's code."""

import importlib.util
import os
from pathlib import Path

from pipecut.errors import UserFileError
from pipecut.plan.folder import PlanFolder

# Seals of the plans that were compiled, sealed or trusted by this user; older ones are dropped.
MOST_SEALS = 10_000


def trusted_plans() -> Path:
    """The file of seals, in $XDG_STATE_HOME or ~/.local/state."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "pipecut" / "trusted-plans"


def trust(seal: str) -> None:
    """Note that a plan is this user's own. Nothing is noted where the file cannot be written: then the plan is asked about."""
    path = trusted_plans()
    try:
        seals = [line for line in _seals(path) if line != seal]
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{path.name}.{os.getpid()}")
        scratch.write_text("\n".join([*seals[-MOST_SEALS + 1 :], seal, ""]))
        scratch.replace(path)
    except OSError:
        return


def is_trusted(seal: str) -> bool:
    """Whether a plan was compiled, sealed or trusted here."""
    try:
        return seal in _seals(trusted_plans())
    except OSError:
        return False


def _seals(path: Path) -> list[str]:
    return path.read_text().split() if path.is_file() else []


def code_outside(folder: PlanFolder, here: Path) -> list[str]:
    """What a run of the plan would run from outside a folder: the plan's stages, the folders that it imports from, modules."""
    model, found = folder.plan.model, []
    for what in (folder.path, *map(Path, model.folders)):
        if not what.resolve().is_relative_to(here.resolve()):
            found.append(str(what.resolve()))
    inside = [Path(name).resolve() for name in (str(here), *model.folders)]
    for function in (model.factory, model.inputs, model.loss):
        module = (function or "").partition(":")[0].partition(".")[0]
        if module and not any(
            (place / module).exists() or (place / f"{module}.py").exists() for place in inside
        ):
            found.append(f"{function} ({_origin(module)})")
    return list(dict.fromkeys(found))


def _origin(module: str) -> str:
    """Where an installed module's code is, which is looked up without running it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    return str(spec.origin) if spec is not None else "not installed"


def refuse_stranger(folder: PlanFolder) -> None:
    """Raises UserFileError for a plan from elsewhere that runs code from outside the current folder."""
    if is_trusted(folder.plan.seal):
        return
    outside = code_outside(folder, Path.cwd())
    if outside:
        raise UserFileError(
            f"{folder.path} was not compiled here, and to run it runs code from outside this folder: {', '.join(outside)}; "
            "look at it, then give --trust once, or compile it yourself"
        )
