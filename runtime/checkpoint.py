"""Checkpoints: a training by FQN, so that any plan of the same model goes on from it.

A checkpoint is a folder `step_00000100` with a safetensors file of each rank and checkpoint.json, which has the hash of every
file, and says in which file each tensor is. It is written under another name and renamed when it is whole. No file is a pickle,
so torch.distributed.checkpoint, whose metadata is one, is not used.
"""

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipecut.errors import CheckpointError
from pipecut.runtime.plan_folder import file_hash
from pipecut.runtime.shards import Rows

VERSION = 2
FACTS = "checkpoint.json"
# Rank 0 waits so many seconds for what the others write.
PATIENCE = 600.0


@dataclass(frozen=True)
class Facts:
    """checkpoint.json. `files` has hashes, `tensors` the file of each, `groups` the optimizer's options by group.

    `pieces` has what is divided into rows: first row, the one after the last, and the file, in the order of rows.

    `model` is the factory and its arguments; `rest` the scheduler's and the data's own states, where they have one.
    """

    version: int
    step: int
    model: dict[str, Any]
    files: dict[str, str]
    tensors: dict[str, str]
    groups: list[dict[str, Any]]
    rest: dict[str, Any]
    pieces: dict[str, list[tuple[int, int, str]]] = field(default_factory=dict)


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


def write_part(partial: Path, name: str, tensors: dict[str, torch.Tensor], rows: Mapping[str, Rows]) -> None:
    """One rank's tensors and their hash; of some only these `rows`. Raises CheckpointError."""
    file = partial / f"{name}.safetensors"
    try:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(file))
        _sync(file)
        part = {"file": file.name, "hash": file_hash(file), "tensors": sorted(set(tensors) - set(rows)), "pieces": rows}
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
    pieces: dict[str, list[tuple[int, int, str]]] = {}
    for part in read:
        for name, (begin, end) in part["pieces"].items():
            pieces[name] = sorted([*pieces.get(name, []), (begin, end, part["file"])])
    target = folder_of(folder, step)
    try:
        facts = json.dumps(asdict(Facts(VERSION, step, model, files, tensors, groups, rest, pieces)), indent=1)
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
        facts = TypeAdapter(Facts).validate_json((path / FACTS).read_bytes())
    except (OSError, ValidationError):
        raise _damaged(path / FACTS, "cannot be read") from None
    # The first version had no pieces.
    if facts.version not in (1, VERSION):
        raise CheckpointError(f"{path}: checkpoint version {facts.version}, this pipecut reads versions 1 and {VERSION}")
    return facts


def read_tensors(
    path: Path, facts: Facts, names: Iterable[str], rows: Mapping[str, tuple[int, int, int]] | None = None
) -> dict[str, torch.Tensor]:
    """Tensors by name, on the CPU, once the hashes of the files that have them were compared.

    Of those in `rows` from the first of these rows to before the second, out of the third. Raises CheckpointError.
    """
    rows = rows or {}
    by_file: dict[str, list[tuple[str, int]]] = {}
    for name in names:
        pieces = facts.pieces.get(name)
        if pieces and name in rows:
            first, end, total = rows[name]
            _same_rows(name, total, pieces[-1][1])
            pieces = [piece for piece in pieces if piece[0] < end and piece[1] > first]
        elif not pieces and name not in facts.tensors:
            kind, _, fqn = name.partition("/")
            raise CheckpointError(f"{path} has no {kind} {fqn}; it is of {facts.model.get('factory')}, or of another optimizer")
        for begin, _, file_name in pieces or [(0, 0, facts.tensors[name])]:
            by_file.setdefault(file_name, []).append((name, begin))
    parts: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for file_name, wanted in by_file.items():
        file = path / file_name
        if Path(file_name).name != file_name or not file.is_file():
            raise _damaged(file, "is missing")
        if file_hash(file) != facts.files.get(file_name):
            raise _damaged(file, "is not as it was written")
        try:
            with safe_open(str(file), framework="pt") as archive:
                for name, begin in wanted:
                    divided = bool(facts.pieces.get(name))
                    found = _rows(archive, name, begin, rows[name], divided) if name in rows else archive.get_tensor(name)
                    parts.setdefault(name, []).append((begin, found))
        except SafetensorError:
            raise _damaged(file, "cannot be read") from None
    in_order = {name: [part for _, part in sorted(own, key=lambda one: one[0])] for name, own in parts.items()}
    return {name: own[0] if len(own) == 1 else torch.cat(own) for name, own in in_order.items()}


def _rows(archive: Any, name: str, begin: int, only: tuple[int, int, int], divided: bool) -> torch.Tensor:
    """Of the rows from `begin` that a file has, those that are wanted; what has no rows, whole."""
    stored = archive.get_slice(name)
    shape = stored.get_shape()
    if not shape:
        whole: torch.Tensor = archive.get_tensor(name)
        return whole
    first, end, total = only
    if not divided:
        _same_rows(name, total, shape[0])
    part: torch.Tensor = stored[max(first - begin, 0) : min(end - begin, shape[0])]
    return part


def _same_rows(name: str, here: int, there: int) -> None:
    if here != there:
        raise CheckpointError(f"{name.replace('/', ' ', 1)} has {here} rows, in the checkpoint {there}")


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
