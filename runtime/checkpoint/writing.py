"""Write a checkpoint: each rank its part, then one rank the manifest, and the folder gets its name.

A checkpoint is a folder `step_00000100` with a safetensors file of each rank and checkpoint.json.
It is written under another name and renamed when it is whole. No file is a pickle, so
torch.distributed.checkpoint, whose metadata is one, is not used.
"""

import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import save_file

from pipecut.errors import CheckpointError
from pipecut.plan.folder import file_hash
from pipecut.plan.rows import Rows
from pipecut.runtime.checkpoint.manifest import Manifest, Piece, manifest_file, write_manifest
from pipecut.runtime.checkpoint.rank_tensors import RankTensors

# Seconds without any progress after which what other ranks write is waited for no longer.
PATIENCE = 600.0
# Seconds between looks for what other ranks write.
LOOK = 0.01


@dataclass(frozen=True)
class Part:
    """What a rank wrote: its file, and the names of what is in it; `pieces` has rows of tensors."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    file: str
    hash: str
    tensors: list[str]
    pieces: dict[str, Rows]


_PART = TypeAdapter(Part)


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


def write_part(partial: Path, rank: int, saved: RankTensors) -> None:
    """One rank's tensors and their hash. Raises CheckpointError."""
    file = partial / f"rank_{rank}.safetensors"
    names = sorted(set(saved.tensors) - set(saved.rows))
    try:
        save_file({name: t.contiguous() for name, t in saved.tensors.items()}, str(file))
        _sync(file)
        part = Part(file.name, file_hash(file), names, dict(saved.rows))
        # The first rank looks for this name, so it must come whole.
        scratch = partial / f"rank_{rank}.part"
        scratch.write_text(json.dumps(asdict(part)))
        _sync(scratch)
        scratch.rename(partial / f"rank_{rank}.json")
    except (OSError, SafetensorError) as error:
        raise _unwritten(file, error) from None


def finish(partial: Path, folder: Path, ranks: Iterable[int], about: Manifest) -> Path:
    """Wait for the parts of these ranks, write the manifest, and give the folder its name.

    `about` has all that the parts do not say themselves. Raises CheckpointError.
    """
    ranks = tuple(ranks)
    files = [partial / f"rank_{rank}.json" for rank in ranks]
    _wait_for(partial, files)
    parts = [_PART.validate_json(file.read_bytes()) for file in files]
    manifest = replace(
        about,
        files={part.file: part.hash for part in parts},
        tensors={name: part.file for part in parts for name in part.tensors},
        pieces=_pieces(parts),
    )
    target = folder_of(folder, about.step)
    try:
        written = manifest_file(partial, ranks[0])
        write_manifest(written, manifest)
        _sync(written)
        for file in files:
            file.unlink()
        _put_in_place(partial, target)
    except (OSError, TypeError, ValueError) as error:
        raise _unwritten(target, error) from None
    return target


def _pieces(parts: Iterable[Part]) -> dict[str, list[Piece]]:
    """By tensor, its rows in order; the same rows of two ranks once."""
    files: dict[str, dict[Rows, str]] = {}
    for part in parts:
        for name, rows in part.pieces.items():
            files.setdefault(name, {})[rows] = part.file
    return {
        name: [Piece(*rows, by_rows[rows]) for rows in sorted(by_rows)]
        for name, by_rows in files.items()
    }


def _wait_for(partial: Path, parts: list[Path]) -> None:
    """As long as anything is being written."""
    since, size = time.monotonic(), -1
    while missing := [file.stem for file in parts if not file.is_file()]:
        size_now = sum(os.path.getsize(file) for file in partial.glob("*.safetensors"))
        if size_now != size:
            since, size = time.monotonic(), size_now
        if time.monotonic() - since > PATIENCE:
            raise CheckpointError(
                f"{partial}: nothing came for {PATIENCE:.0f} s of what {', '.join(missing)} should "
                "write; look at the messages of these ranks, and at the file system"
            )
        time.sleep(LOOK)


def _put_in_place(partial: Path, target: Path) -> None:
    """Give the folder its name; one that had it goes once this is done."""
    replaced = partial.with_suffix(".replaced")
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    partial.rename(target)
    _sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritten(path: Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or str(error)
    return CheckpointError(
        f"{path} could not be written: {reason}; an earlier checkpoint stays as it was"
    )
