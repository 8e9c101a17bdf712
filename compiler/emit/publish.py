"""A plan folder put where the user wants it, in place of an older plan but of nothing else."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from pipecut.errors import PlanError, UserFileError
from pipecut.plan.folder import MANIFEST, PlanFolder, listed_files
from pipecut.plan.places import as_written, located
from pipecut.plan.trust import trust


def publish(folder: PlanFolder, target: Path) -> PlanFolder:
    """Put an emitted folder in place, and trust it on this machine.

    Of a plan that was there before, only its own files are removed.
    """
    whole = target.resolve()
    # mkdtemp made it for its owner only; a plan is as readable as any other folder.
    os.chmod(folder.path, 0o755)
    put_in_place(folder.path, whole, files_of_plan(whole))
    trust(folder.plan.seal)
    plan = located(as_written(folder.plan, folder.path), whole)
    return replace(folder, path=target, plan=plan)


def refuse_occupied(target: Path) -> None:
    """Raises UserFileError where a folder has something else than a plan, or cannot be made."""
    above = next((folder for folder in target.absolute().parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        raise UserFileError(f"{target}: {above} is a file, no folder; give another -o")
    files_of_plan(target)


def files_of_plan(target: Path) -> frozenset[str]:
    """Files of the plan in a folder, by its manifest; none where the folder is empty or missing.

    Raises UserFileError where the folder has something else than a plan.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return frozenset()
    try:
        return frozenset({MANIFEST, *listed_files(target)})
    except (PlanError, OSError):
        raise UserFileError(
            f"{target} exists and is no plan folder; give another -o, or remove it"
        ) from None


def put_in_place(scratch: Path, target: Path, old_files: frozenset[str]) -> None:
    """Move the new files in place of the old plan's.

    Whatever else is in the target stays: checkpoints, weights, notes.
    """
    present = _files_in(target)
    cached = {name for name in present if _is_cached_stage(name)}
    if present <= cached | old_files:
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
        return
    new_files = _files_in(scratch)
    # The manifest last: a reader in between sees hashes that differ, and is refused.
    for name in sorted(new_files, key=lambda name: (name == MANIFEST, name)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch / name, target / name)
    for name in (old_files - new_files) | cached:
        (target / name).unlink(missing_ok=True)


def _files_in(folder: Path) -> set[str]:
    """Everything within a folder but folders, by path within it; links count as files."""
    if not folder.exists():
        return set()
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def _is_cached_stage(name: str) -> bool:
    """Whether a file is what Python keeps of a stage that was imported."""
    return name.startswith("stages") and Path(name).parent.name == "__pycache__"
