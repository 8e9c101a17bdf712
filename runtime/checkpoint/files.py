"""A checkpoint: a training by FQN, so that any plan of the same model goes on from it.

It is a folder `step_00000100` with a safetensors file of each rank and checkpoint.json, which has
the hash of every file, says in which file each tensor is, and is sealed by a hash of itself. It is
written under another name and renamed when it is whole. No file is a pickle, so
torch.distributed.checkpoint, whose metadata is one, is not used.

Machines without a shared file system each have such a folder with the files of their own ranks, and
a checkpoint_RANK.json after the first of these: put together in one folder, they are one checkpoint.
"""

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipecut.errors import CheckpointError
from pipecut.plan.folder import file_hash, seal_of
from pipecut.plan.rows import Rows

VERSION = 3
# The first version had no pieces; neither of these had a seal.
UNSEALED = (1, 2)
FACTS = "checkpoint.json"
# Without any progress for so many seconds, what other ranks write is waited for no longer.
PATIENCE = 600.0

LAST_STEP = 1 << 62
Count = Annotated[int, Field(ge=0, lt=LAST_STEP)]
STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Group:
    """A parameter group of the optimizer: its options, and the names of all its parameters."""

    __pydantic_config__ = STRICT

    options: dict[str, Any]
    names: list[str]


@dataclass(frozen=True)
class Rest:
    """What is no tensor: the loss scale, the number of ranks, the scheduler's and data's own states.

    `made` says by what the training was made: see resume.py; `steps` how many the ranks had done.
    """

    __pydantic_config__ = STRICT

    ranks: Count = 0
    steps: Count | None = None
    loss_scale: dict[str, float] = field(default_factory=dict)
    scheduler: Any = None
    data: Any = None
    made: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Elsewhere:
    """Of a tensor that other machines have: their ranks, and its rows in all where it is divided."""

    __pydantic_config__ = STRICT

    ranks: list[Count]
    rows: Count = 0


@dataclass(frozen=True)
class Facts:
    """checkpoint.json. `files` has hashes, `tensors` the file of each.

    `pieces` has what is divided into rows: first row, the one after the last, and the file, in the
    order of rows. `model` is the factory and its arguments. `finite` is False where a parameter or
    an optimizer's state is not. `save` is the same on all machines that wrote one checkpoint.
    """

    __pydantic_config__ = STRICT

    version: int
    step: Count
    model: dict[str, Any]
    files: dict[str, str]
    tensors: dict[str, str]
    groups: list[Group]
    rest: Rest
    pieces: dict[str, list[tuple[Count, Count, str]]] = field(default_factory=dict)
    finite: bool = True
    save: str = ""
    elsewhere: dict[str, Elsewhere] = field(default_factory=dict)
    seal: str | None = None

    @property
    def names(self) -> set[str]:
        """Of every tensor of the checkpoint, on whichever machine."""
        return {*self.tensors, *self.pieces, *self.elsewhere}


_FACTS = TypeAdapter(Facts)


def folder_of(folder: Path, step: int) -> Path:
    """Where the checkpoint after so many steps is."""
    return folder / f"step_{step:08d}"


def partial_of(folder: Path, step: int) -> Path:
    """Where it is while it is written."""
    return folder / f".step_{step:08d}.partial"


def facts_files(path: Path) -> list[Path]:
    """The files that say what a checkpoint has: none where a folder is no checkpoint."""
    return sorted(path.glob("checkpoint*.json"))


def begin(folder: Path, step: int) -> Path:
    """An empty folder to write into; what a crash left there goes. Raises CheckpointError."""
    partial = partial_of(folder, step)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise _unwritten(partial, error) from None
    return partial


def write_part(
    partial: Path, rank: int, tensors: dict[str, torch.Tensor], rows: Mapping[str, Rows]
) -> None:
    """One rank's tensors and their hash; of some only these `rows`. Raises CheckpointError."""
    file = partial / f"rank_{rank}.safetensors"
    names = sorted(set(tensors) - set(rows))
    try:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(file))
        _sync(file)
        part = {"file": file.name, "hash": file_hash(file), "tensors": names, "pieces": dict(rows)}
        # The first rank looks for this name, so it must come whole.
        scratch = partial / f"rank_{rank}.part"
        scratch.write_text(json.dumps(part))
        _sync(scratch)
        scratch.rename(partial / f"rank_{rank}.json")
    except (OSError, SafetensorError) as error:
        raise _unwritten(file, error) from None


def finish(partial: Path, folder: Path, ranks: Iterable[int], about: Facts) -> Path:
    """Wait for the parts of these ranks, write what `about` says of them, and name the folder.

    `about` has all that the parts do not say themselves. Raises CheckpointError.
    """
    ranks = tuple(ranks)
    parts = [partial / f"rank_{rank}.json" for rank in ranks]
    _wait_for(partial, parts)
    read = [json.loads(file.read_text()) for file in parts]
    pieces: dict[str, dict[tuple[int, int], str]] = {}
    for part in read:
        for name, (first, end) in part["pieces"].items():
            pieces.setdefault(name, {})[first, end] = part["file"]
    facts = replace(
        about,
        files={part["file"]: part["hash"] for part in read},
        tensors={name: part["file"] for part in read for name in part["tensors"]},
        pieces={name: [(*rows, own[rows]) for rows in sorted(own)] for name, own in pieces.items()},
    )
    target = folder_of(folder, about.step)
    try:
        _write_facts(partial / (f"checkpoint_{ranks[0]}.json" if ranks[0] else FACTS), facts)
        for file in parts:
            file.unlink()
        _put_in_place(partial, target)
    except (OSError, TypeError, ValueError) as error:
        raise _unwritten(target, error) from None
    return target


def _wait_for(partial: Path, parts: list[Path]) -> None:
    """As long as anything is being written."""
    since, size = time.monotonic(), -1
    while missing := [file.stem for file in parts if not file.is_file()]:
        now = sum(os.path.getsize(file) for file in partial.glob("*.safetensors"))
        if now != size:
            since, size = time.monotonic(), now
        if time.monotonic() - since > PATIENCE:
            who = ", ".join(missing)
            raise CheckpointError(
                f"{partial}: nothing came for {PATIENCE:.0f} s of what {who} should write; look at "
                "the messages of these ranks, and at the file system"
            )
        time.sleep(0.01)


def _write_facts(file: Path, facts: Facts) -> None:
    data = asdict(facts)
    del data["seal"]
    # As it is read again: tuples as lists.
    data = json.loads(json.dumps(data))
    file.write_text(json.dumps({**data, "seal": seal_of(data)}, indent=1))
    _sync(file)


def _put_in_place(partial: Path, target: Path) -> None:
    """Give the folder its name; one that had it goes once this is done."""
    replaced = partial.with_suffix(".replaced")
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    partial.rename(target)
    _sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def read_facts(path: Path) -> Facts:
    """Those of all machines that wrote it, as far as they are here.

    Raises CheckpointError for what is no checkpoint, is damaged or of another version.
    """
    files = facts_files(path)
    if not files:
        raise _damaged(path / FACTS, "is missing")
    first, *others = [_read_facts(file) for file in files]
    for file, other in zip(files[1:], others, strict=True):
        if (other.save, other.step) != (first.save, first.step):
            raise CheckpointError(
                f"{file} and {files[0].name} are of two checkpoints; put only those of one together"
            )
        first = _together(first, other)
    named = path.name.removeprefix("step_")
    if path.name.startswith("step_") and named.isdigit() and int(named) != first.step:
        raise CheckpointError(f"{path} is of step {first.step}; name it as it was named")
    return first


def _together(first: Facts, other: Facts) -> Facts:
    tensors = {**first.tensors, **other.tensors}
    pieces: dict[str, list[tuple[Count, Count, str]]] = {}
    for name in {**first.pieces, **other.pieces}:
        own = [*first.pieces.get(name, []), *other.pieces.get(name, [])]
        pieces[name] = sorted({piece[:2]: piece for piece in own}.values())
    away = {**first.elsewhere, **other.elsewhere}
    return replace(
        first,
        files={**first.files, **other.files},
        tensors=tensors,
        pieces=pieces,
        finite=first.finite and other.finite,
        elsewhere={
            name: where
            for name, where in away.items()
            if (_gaps(pieces.get(name, []), 0, where.rows) if where.rows else name not in tensors)
        },
    )


def _read_facts(file: Path) -> Facts:
    try:
        text = file.read_bytes()
        data = json.loads(text)
        version, seal = data.get("version"), data.get("seal")
    except (OSError, ValueError, AttributeError, RecursionError):
        raise _damaged(file, "cannot be read") from None
    if version not in (*UNSEALED, VERSION):
        known = ", ".join(map(str, (*UNSEALED, VERSION)))
        raise CheckpointError(f"{file}: checkpoint version {version}, this pipecut reads {known}")
    if (version == VERSION or seal is not None) and seal != seal_of(data):
        raise _damaged(file, "is not as it was written")
    try:
        facts = _FACTS.validate_json(text)
    except (ValidationError, RecursionError):
        raise _damaged(file, "cannot be read") from None
    where = [*facts.tensors.values(), *(piece[2] for own in facts.pieces.values() for piece in own)]
    if not set(where) <= set(facts.files) or any(Path(name).name != name for name in where):
        raise _damaged(file, "names a file that it has no hash of")
    return facts


def read_tensors(
    path: Path,
    facts: Facts,
    names: Iterable[str],
    rows: Mapping[str, tuple[int, int, int]] | None = None,
) -> dict[str, torch.Tensor]:
    """Tensors by name, on the CPU, once the hashes of the files that have them were compared.

    Of those in `rows` from the first of these rows to before the second, out of the third.
    Raises CheckpointError.
    """
    rows = rows or {}
    by_file: dict[str, list[tuple[str, int]]] = {}
    for name in names:
        for begin, _, file_name in _places(path, facts, name, rows.get(name)):
            by_file.setdefault(file_name, []).append((name, begin))
    parts: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for file_name, wanted in by_file.items():
        file = path / file_name
        if not file.is_file():
            raise _damaged(file, "is missing")
        if file_hash(file) != facts.files[file_name]:
            raise _damaged(file, "is not as it was written")
        try:
            with safe_open(str(file), framework="pt") as archive:
                for name, begin in wanted:
                    part = _read(archive, facts, name, begin, rows.get(name))
                    parts.setdefault(name, []).append((begin, part))
        except (SafetensorError, OSError, ValueError, TypeError, LookupError, RuntimeError):
            raise _damaged(file, "cannot be read") from None
    return {name: _joined(path, name, own) for name, own in parts.items()}


def _joined(path: Path, name: str, parts: list[tuple[int, torch.Tensor]]) -> torch.Tensor:
    in_order = [part for _, part in sorted(parts, key=lambda part: part[0])]
    if len({(part.dtype, part.shape[1:]) for part in in_order}) > 1:
        raise _damaged(path / FACTS, f"has pieces of {name} that do not fit together")
    return in_order[0] if len(in_order) == 1 else torch.cat(in_order)


def _places(
    path: Path, facts: Facts, name: str, rows: tuple[int, int, int] | None
) -> list[tuple[int, int, str]]:
    """The pieces that have a tensor, or the rows of it that are wanted. Raises CheckpointError."""
    pieces = facts.pieces.get(name)
    away = facts.elsewhere.get(name)
    if not pieces:
        if name in facts.tensors:
            return [(0, 0, facts.tensors[name])]
        if away is not None:
            raise _on_another_machine(path, facts, name, away)
        raise CheckpointError(
            f"{path} has no {_said(name)}; it is of {facts.model.get('factory')}, or of another optimizer"
        )
    total = away.rows if away is not None else max(end for _, end, _ in pieces)
    if rows is not None:
        _same_rows(name, rows[2], total)
    first, end = rows[:2] if rows is not None else (0, total)
    if _gaps(pieces, first, end):
        if away is not None:
            raise _on_another_machine(path, facts, name, away)
        raise _damaged(path / FACTS, f"lacks rows of {_said(name)}")
    return [piece for piece in pieces if piece[0] < end and piece[1] > first]


def _gaps(pieces: Iterable[tuple[int, int, str]], first: int, end: int) -> bool:
    """Whether rows between these are missing, or are there twice."""
    reached = first
    for begin, after, _ in pieces:
        if begin >= end or after <= first:
            continue
        if begin > reached or (begin < reached and reached > first):
            return True
        reached = after
    return reached < end


def _read(
    archive: Any, facts: Facts, name: str, begin: int, only: tuple[int, int, int] | None
) -> torch.Tensor:
    """Of the rows from `begin` that a file has, those that are wanted; what has no rows, whole."""
    stored = archive.get_slice(name)
    shape = stored.get_shape()
    if not shape or only is None:
        whole: torch.Tensor = archive.get_tensor(name)
        return whole
    first, end, total = only
    if not facts.pieces.get(name):
        _same_rows(name, total, shape[0])
    part: torch.Tensor = stored[max(first - begin, 0) : min(end - begin, shape[0])]
    return part


def _same_rows(name: str, here: int, there: int) -> None:
    if here != there:
        raise CheckpointError(f"{_said(name)} has {here} rows, in the checkpoint {there}")


def _said(name: str) -> str:
    return name.replace("/", " ", 1)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _on_another_machine(path: Path, facts: Facts, name: str, away: Elsewhere) -> CheckpointError:
    ranks = ", ".join(map(str, away.ranks))
    return CheckpointError(
        f"{path} was written by machines that share no file system, and {_said(name)} is in the "
        f"files of rank {ranks} on another one; copy all of that machine's {path.name}/ into this "
        f"one, or start the {facts.rest.ranks} ranks on the machines that wrote it"
    )


def _unwritten(path: Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or str(error)
    return CheckpointError(
        f"{path} could not be written: {reason}; an earlier checkpoint stays as it was"
    )


def _damaged(file: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{file} {what}; remove {file.parent} to go on from the checkpoint before it"
    )
