"""Whose code a plan runs: to run a plan is to run its stages and its model's code.

So a plan from elsewhere is refused until the user trusts it once.
"""

import importlib.util
import os
from collections.abc import Sequence
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
    """Note that a plan is this user's own.

    Nothing is noted where the file cannot be written: then the user is asked about the plan.
    """
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


def code_outside(folder: PlanFolder, home: Path) -> list[str]:
    """The code from outside a folder that a run of the plan would run.

    The plan's stages, the folders that it imports from, and modules that are in none of them.
    """
    model = folder.plan.model
    outside = [
        str(path.resolve())
        for path in (folder.path, *map(Path, model.folders))
        if not path.resolve().is_relative_to(home.resolve())
    ]
    folders = [Path(name).resolve() for name in (str(home), *model.folders)]
    for function in filter(None, (model.factory, model.inputs, model.loss)):
        module = function.partition(":")[0].partition(".")[0]
        if module and not _is_in(module, folders):
            outside.append(f"{function} ({_origin(module)})")
    return list(dict.fromkeys(outside))


def _is_in(module: str, folders: Sequence[Path]) -> bool:
    return any((f / module).exists() or (f / f"{module}.py").exists() for f in folders)


def _origin(module: str) -> str:
    """Where an installed module's code is, which is looked up without running it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    return str(spec.origin) if spec is not None else "not installed"


def refuse_stranger(folder: PlanFolder) -> None:
    """Raises UserFileError for a plan from elsewhere that runs code from outside this folder."""
    if is_trusted(folder.plan.seal):
        return
    outside = code_outside(folder, Path.cwd())
    if outside:
        raise UserFileError(
            f"{folder.path} was not compiled here, and to run it runs code from outside this "
            f"folder: {', '.join(outside)}; look at it, then give --trust once, "
            "or compile it yourself"
        )
