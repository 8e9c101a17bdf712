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
    """By the name of a checkpoint's folder; -1 where that is no such name."""
    match = NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def checkpoints(folder: Path) -> list[Path]:
    """The whole ones of a folder, by step."""
    whole = [path for path in folder.glob("step_*") if step_of(path) >= 0 and manifest_files(path)]
    return sorted(whole, key=step_of)


def latest(folder: Path) -> Path | None:
    """The last one of a folder of checkpoints, or the folder itself where it is one, or None."""
    if manifest_files(folder):
        return folder
    whole = checkpoints(folder)
    return whole[-1] if whole else None


def home_of(folder: Path) -> Path:
    """Where checkpoints go that follow: beside a checkpoint that is named itself."""
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

    Only for who holds the folder's lock.
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
                f"{path} is later than the step that is gone on from, and cannot be renamed: {error.strerror}; move it elsewhere"
            ) from None
        moved.append(target)
    return moved


def refuse_earlier(folder: Path) -> None:
    """A new training among another's checkpoints would lose its own, and take up the other's.

    Raises CheckpointError.
    """
    last = latest(folder)
    if last is not None:
        raise CheckpointError(
            f"{folder} has checkpoints of an earlier run, the last one {last.name}; --resume goes on "
            "from it, --checkpoints takes another folder for a new one"
        )
