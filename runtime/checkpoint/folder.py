"""A folder of checkpoints: which there are, which is the last, which go, and which are set aside.

A training that goes back to an earlier checkpoint sets the later ones aside, under another name, so
that they neither win when it goes on the next time nor count among those that are kept.
"""

import re
import shutil
from pathlib import Path

from pipecut.errors import CheckpointError
from pipecut.runtime.checkpoint.manifest import manifest_files, read_manifest

NAME = re.compile(r"step_(\d+)")
ASIDE = "aside_"


def step_of(path: Path) -> int:
    """The step that a checkpoint's folder is named after; -1 for another name."""
    match = NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def checkpoints(folder: Path) -> list[Path]:
    """The whole ones of a folder, by step."""
    paths = [path for path in folder.glob("step_*") if step_of(path) >= 0 and manifest_files(path)]
    return sorted(paths, key=step_of)


def latest(folder: Path) -> Path | None:
    """The last one of a folder of checkpoints, or the folder itself where it is one, or None."""
    if manifest_files(folder):
        return folder
    paths = checkpoints(folder)
    return paths[-1] if paths else None


def home_of(folder: Path) -> Path:
    """Where later checkpoints go: beside `folder` where that is a checkpoint itself."""
    return folder.parent if manifest_files(folder) and step_of(folder) >= 0 else folder


def prune(folder: Path, keep: int) -> None:
    """Remove all but the last ones, and the last one that is finite."""
    finite = last_finite(folder)
    for path in checkpoints(folder)[:-keep]:
        if path != finite:
            shutil.rmtree(path, ignore_errors=True)


def last_finite(folder: Path) -> Path | None:
    """The last checkpoint whose values are finite numbers."""
    return next((path for path in reversed(checkpoints(folder)) if _finite(path)), None)


def _finite(path: Path) -> bool:
    try:
        return read_manifest(path).finite
    except CheckpointError:
        return False


def tidy(folder: Path) -> None:
    """Remove what a crash left half written; bring back what it was about to replace.

    To be called by the rank that holds the folder's lock.
    """
    for partial in folder.glob(".step_*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
    for replaced in folder.glob(".step_*.replaced"):
        target = folder / replaced.stem.removeprefix(".")
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(target)


def set_aside(folder: Path, step: int) -> list[Path]:
    """Rename checkpoints after this step. Returns where they are now. Raises CheckpointError."""
    moved = []
    for path in checkpoints(folder):
        if step_of(path) <= step:
            continue
        target, number = folder / f"{ASIDE}{path.name}", 1
        while target.exists():
            number += 1
            target = folder / f"{ASIDE}{path.name}_{number}"
        try:
            path.rename(target)
        except OSError as error:
            raise CheckpointError(
                f"{path} is later than the step that the training goes on from, and cannot be "
                f"renamed: {error.strerror}; move it elsewhere"
            ) from None
        moved.append(target)
    return moved


def refuse_none(folder: Path) -> None:
    """Raise CheckpointError where there is nothing to resume from."""
    if latest(folder) is None:
        raise CheckpointError(f"{folder} has no checkpoint; leave out --resume to begin anew")


def refuse_earlier(folder: Path) -> None:
    """Raise CheckpointError where a new training would write among another's checkpoints.

    It would lose its own, and resume from the other's.
    """
    last = latest(folder)
    if last is not None:
        raise CheckpointError(
            f"{folder} has checkpoints of an earlier run, the last one {last.name}; --resume goes "
            "on from it, --checkpoints takes another folder for a new one"
        )
