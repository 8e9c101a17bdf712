"""Checkpoints: a training by FQN, so that any plan of the same model goes on from it.

A checkpoint is a folder `step_00000100` with a safetensors file of each rank and checkpoint.json, which has the hash of every
file, and says in which file each tensor is. It is written under another name and renamed when it is whole. No file is a pickle,
so torch.distributed.checkpoint, whose metadata is one, is not used.
"""

import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipecut.errors import CheckpointError
from pipecut.runtime.plan_folder import file_hash

VERSION = 1
FACTS = "checkpoint.json"
# Rank 0 waits so many seconds for what the others write.
PATIENCE = 600.0


@dataclass(frozen=True)
class Facts:
    """checkpoint.json. `files` has hashes, `tensors` the file of each, `groups` the optimizer's options by group.

    `model` is the factory and its arguments; `rest` the scheduler's and the data's own states, where they have one.
    """

    version: int
    step: int
    model: dict[str, Any]
    files: dict[str, str]
    tensors: dict[str, str]
    groups: list[dict[str, Any]]
    rest: dict[str, Any]


def folder_of(folder: Path, step: int) -> Path:
    """Where the checkpoint after so many steps is."""
    return folder / f"step_{step:08d}"


def partial_of(folder: Path, step: int) -> Path:
    """Where it is while it is written."""
    return folder / f".step_{step:08d}.partial"


def begin(folder: Path, step: int) -> Path:
    """An empty folder to write into; what a crash left there goes. Raises CheckpointError."""
    partial = partial_of(folder, step)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise _unwritten(partial, error) from None
    return partial


def write_part(partial: Path, name: str, tensors: dict[str, torch.Tensor]) -> None:
    """One rank's tensors and their hash. Raises CheckpointError."""
    file = partial / f"{name}.safetensors"
    try:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(file))
        _sync(file)
        part = {"file": file.name, "hash": file_hash(file), "tensors": sorted(tensors)}
        # Rank 0 looks for this name, so it must come whole.
        scratch = partial / f"{name}.part"
        scratch.write_text(json.dumps(part))
        _sync(scratch)
        scratch.rename(partial / f"{name}.json")
    except (OSError, SafetensorError) as error:
        raise _unwritten(file, error) from None


def finish(
    partial: Path, folder: Path, parts: int, step: int, model: dict[str, Any], groups: list[dict[str, Any]], rest: dict[str, Any]
) -> Path:
    """Wait for every rank's part, write checkpoint.json, and give the folder its name. Raises CheckpointError."""
    begun = time.monotonic()
    while len(found := sorted(partial.glob("*.json"))) < parts:
        if time.monotonic() - begun > PATIENCE:
            raise CheckpointError(f"{partial}: only {len(found)} of {parts} ranks wrote their part within {PATIENCE:.0f} s")
        time.sleep(0.01)
    read = [json.loads(file.read_text()) for file in found]
    files = {part["file"]: part["hash"] for part in read}
    tensors = {name: part["file"] for part in read for name in part["tensors"]}
    target = folder_of(folder, step)
    try:
        facts = json.dumps(asdict(Facts(VERSION, step, model, files, tensors, groups, rest)), indent=1)
        (partial / FACTS).write_text(facts)
        _sync(partial / FACTS)
        for file in found:
            file.unlink()
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        _sync(folder)
    except (OSError, TypeError, ValueError) as error:
        raise _unwritten(target, error) from None
    return target


def prune(folder: Path, keep: int) -> None:
    """Remove all but the last ones."""
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """The whole ones of a folder, by step."""
    return sorted(one for one in folder.glob("step_*") if (one / FACTS).is_file())


def latest(folder: Path) -> Path | None:
    """The last one of a folder of checkpoints, or the folder itself where it is one; None when there is none."""
    if (folder / FACTS).is_file():
        return folder
    found = checkpoints(folder) if folder.is_dir() else []
    return found[-1] if found else None


def refuse_earlier(folder: Path) -> None:
    """A new training among another's checkpoints would lose its own, and take up the other's. Raises CheckpointError."""
    last = latest(folder)
    if last is not None:
        raise CheckpointError(
            f"{folder} has checkpoints of an earlier run, the last one {last.name}; --resume goes on from it, "
            "--checkpoints takes another folder for a new one"
        )


def read_facts(path: Path) -> Facts:
    """Raises CheckpointError for what is no checkpoint, or of another version."""
    try:
        facts = Facts(**json.loads((path / FACTS).read_text(encoding="utf-8")))
        if not (isinstance(facts.step, int) and isinstance(facts.files, dict) and isinstance(facts.tensors, dict)):
            raise TypeError
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError):
        raise _damaged(path / FACTS, "cannot be read") from None
    if facts.version != VERSION:
        raise CheckpointError(f"{path}: checkpoint version {facts.version}, this pipecut reads version {VERSION}")
    return facts


def read_tensors(path: Path, facts: Facts, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Tensors by name, on the CPU, once the hashes of the files that have them were compared. Raises CheckpointError."""
    by_file: dict[str, list[str]] = {}
    for name in names:
        if name not in facts.tensors:
            kind, _, fqn = name.partition("/")
            raise CheckpointError(f"{path} has no {kind} {fqn}; it is of {facts.model.get('factory')}, or of another optimizer")
        by_file.setdefault(facts.tensors[name], []).append(name)
    found: dict[str, torch.Tensor] = {}
    for file_name, wanted in by_file.items():
        file = path / file_name
        if Path(file_name).name != file_name or not file.is_file():
            raise _damaged(file, "is missing")
        if file_hash(file) != facts.files.get(file_name):
            raise _damaged(file, "is not as it was written")
        try:
            with safe_open(str(file), framework="pt") as archive:
                found |= {name: archive.get_tensor(name) for name in wanted}
        except SafetensorError:
            raise _damaged(file, "cannot be read") from None
    return found


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritten(path: Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or str(error)
    return CheckpointError(f"{path} could not be written: {reason}; the checkpoint before it is whole")


def _damaged(file: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{file} {what}; remove {file.parent} to go on from the checkpoint before it")
