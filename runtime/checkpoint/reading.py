"""Read tensors of a checkpoint, or some rows of them, from the files that have them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pipecut.errors import CheckpointError
from pipecut.runtime.checkpoint.manifest import (
    MANIFEST,
    Elsewhere,
    Manifest,
    Piece,
    check_hash,
    damaged,
    has_gaps,
    spoken,
)


@dataclass(frozen=True)
class WantedRows:
    """Rows `start` to before `stop` of a tensor that has `total` rows."""

    start: int
    stop: int
    total: int


@dataclass(frozen=True)
class _Part:
    """Rows of a tensor as a file has them, from `first` on."""

    name: str
    first: int


def read_tensors(
    path: Path,
    manifest: Manifest,
    names: Iterable[str],
    rows: Mapping[str, WantedRows] | None = None,
) -> dict[str, torch.Tensor]:
    """Tensors by name, on the CPU, or those `rows` of them; the hashes of their files are compared.

    Raises CheckpointError.
    """
    rows = rows or {}
    parts_of_file: dict[str, list[_Part]] = {}
    for name in names:
        for piece in _pieces(path, manifest, name, rows.get(name)):
            parts_of_file.setdefault(piece.file, []).append(_Part(name, piece.first))
    tensors: dict[str, dict[int, torch.Tensor]] = {}
    for file_name, parts in parts_of_file.items():
        check_hash(path, manifest, file_name)
        try:
            with safe_open(str(path / file_name), framework="pt") as archive:
                for part in parts:
                    tensor = _read(archive, manifest, part, rows.get(part.name))
                    tensors.setdefault(part.name, {})[part.first] = tensor
        except (SafetensorError, OSError, ValueError, TypeError, LookupError, RuntimeError):
            raise damaged(path / file_name, "cannot be read") from None
    return {name: _joined(path, name, by_first) for name, by_first in tensors.items()}


def _joined(path: Path, name: str, by_first: dict[int, torch.Tensor]) -> torch.Tensor:
    in_order = [by_first[first] for first in sorted(by_first)]
    if len({(tensor.dtype, tensor.shape[1:]) for tensor in in_order}) > 1:
        raise damaged(path / MANIFEST, f"has pieces of {name} that do not fit together")
    return in_order[0] if len(in_order) == 1 else torch.cat(in_order)


def _pieces(path: Path, manifest: Manifest, name: str, rows: WantedRows | None) -> list[Piece]:
    """The pieces that have a tensor, or the rows of it that are wanted. Raises CheckpointError."""
    pieces, elsewhere = manifest.pieces.get(name), manifest.elsewhere.get(name)
    if not pieces:
        if name in manifest.tensors:
            return [Piece(0, 0, manifest.tensors[name])]
        if elsewhere is not None:
            raise _on_another_machine(path, manifest, name, elsewhere)
        raise CheckpointError(
            f"{path} has no {spoken(name)}; it is of {manifest.model.get('factory')}, "
            "or of another optimizer"
        )
    total = elsewhere.rows if elsewhere is not None else max(piece.end for piece in pieces)
    if rows is not None:
        _check_total(name, rows.total, total)
    first, end = (rows.start, rows.stop) if rows is not None else (0, total)
    if has_gaps(pieces, first, end):
        if elsewhere is not None:
            raise _on_another_machine(path, manifest, name, elsewhere)
        raise damaged(path / MANIFEST, f"lacks rows of {spoken(name)}")
    return [piece for piece in pieces if piece.first < end and piece.end > first]


def _read(archive: Any, manifest: Manifest, part: _Part, rows: WantedRows | None) -> torch.Tensor:
    """The rows that are wanted of those that a file has; what has no rows, whole."""
    stored = archive.get_slice(part.name)
    shape = stored.get_shape()
    if not shape or rows is None:
        all_rows: torch.Tensor = archive.get_tensor(part.name)
        return all_rows
    if not manifest.pieces.get(part.name):
        _check_total(part.name, rows.total, shape[0])
    start, stop = max(rows.start - part.first, 0), min(rows.stop - part.first, shape[0])
    tensor: torch.Tensor = stored[start:stop]
    return tensor


def _check_total(name: str, expected: int, total: int) -> None:
    if expected != total:
        raise CheckpointError(f"{spoken(name)} has {expected} rows, in the checkpoint {total}")


def _on_another_machine(
    path: Path, manifest: Manifest, name: str, elsewhere: Elsewhere
) -> CheckpointError:
    ranks = ", ".join(map(str, elsewhere.ranks))
    return CheckpointError(
        f"{path} was written by machines that share no file system, and {spoken(name)} is in the "
        f"files of rank {ranks} on another one; copy all of that machine's {path.name}/ into this "
        f"one, or start the {manifest.training.ranks} ranks on the machines that wrote it"
    )
