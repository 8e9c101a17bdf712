"""checkpoint.json: what a checkpoint has, and in which file each tensor is.

It has the hash of every file and is sealed by a hash of itself. Machines without a shared file
system each have such a folder with the files of their own ranks, and a checkpoint_RANK.json after
the first of these: put together in one folder, they are one checkpoint.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pipecut.errors import CheckpointError
from pipecut.plan.folder import file_hash, seal_of

VERSION = 3
# The first version had no pieces; neither of these had a seal.
UNSEALED = (1, 2)
MANIFEST = "checkpoint.json"
# So that a step's number fits where steps are counted in 64 bits.
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
class TrainingState:
    """What is no tensor: the loss scale, the number of ranks, states of the scheduler and the data.

    `recipe` is what the training is made with: see resume.py; `steps` is how many the ranks had
    done.
    """

    __pydantic_config__ = STRICT

    ranks: Count = 0
    steps: Count | None = None
    loss_scale: dict[str, float] = field(default_factory=dict)
    scheduler: Any = None
    data: Any = None
    recipe: Annotated[dict[str, Any], Field(alias="made")] = field(default_factory=dict)


@dataclass(frozen=True)
class Elsewhere:
    """A tensor that other machines have: their ranks, and all its rows where it is divided."""

    __pydantic_config__ = STRICT

    ranks: list[Count]
    rows: Count = 0


class Piece(NamedTuple):
    """Rows of a tensor that a file has, to before row `end`; a list of three in JSON."""

    first: Count
    end: Count
    file: str


@dataclass(frozen=True)
class Manifest:
    """A checkpoint as its file says. `files` has hashes, `tensors` the file of each whole tensor.

    `pieces` has what is divided into rows, in their order. `model` is the factory and its
    arguments. `finite` is False where a value of a parameter or an optimizer's state is infinite
    or NaN. `save` is the same on all machines that wrote one checkpoint. `frozen` has parameters
    that are not in it since they are not trained, with a digest of their values.
    """

    __pydantic_config__ = STRICT

    version: int
    step: Count
    model: dict[str, Any]
    files: dict[str, str]
    tensors: dict[str, str]
    groups: list[Group]
    training: Annotated[TrainingState, Field(alias="rest")]
    pieces: dict[str, list[Piece]] = field(default_factory=dict)
    finite: bool = True
    save: str = ""
    elsewhere: dict[str, Elsewhere] = field(default_factory=dict)
    frozen: dict[str, str] = field(default_factory=dict)
    seal: str | None = None

    @property
    def names(self) -> set[str]:
        """The names of every tensor of the checkpoint, on whichever machine."""
        return {*self.tensors, *self.pieces, *self.elsewhere}

    @property
    def scheduled_steps(self) -> int:
        """Optimizer steps that a schedule of the learning rate has seen; else the step."""
        state = self.training.scheduler
        steps = state.get("last_epoch") if isinstance(state, dict) else None
        return steps if isinstance(steps, int) and 0 <= steps < LAST_STEP else self.step


_MANIFEST = TypeAdapter(Manifest)


def manifest_files(path: Path) -> list[Path]:
    """The files that say what a checkpoint has: none where a folder is no checkpoint."""
    return sorted(path.glob("checkpoint*.json"))


def manifest_file(path: Path, first_rank: int) -> Path:
    """Where the machine whose first rank this is writes it."""
    return path / (f"checkpoint_{first_rank}.json" if first_rank else MANIFEST)


def write_manifest(file: Path, manifest: Manifest) -> None:
    """Write it with its seal."""
    unsealed = _MANIFEST.dump_python(manifest, by_alias=True)
    del unsealed["seal"]
    # Sealed as it is read again: tuples as lists.
    unsealed = json.loads(json.dumps(unsealed))
    file.write_text(json.dumps({**unsealed, "seal": seal_of(unsealed)}, indent=1))


def read_manifest(path: Path) -> Manifest:
    """What all machines wrote of a checkpoint, as far as it is in the folder, as one manifest.

    Raises CheckpointError for what is no checkpoint, is damaged or of another version.
    """
    files = manifest_files(path)
    if not files:
        raise damaged(path / MANIFEST, "is missing")
    merged = _read_file(files[0])
    for file in files[1:]:
        manifest = _read_file(file)
        if (manifest.save, manifest.step) != (merged.save, merged.step):
            raise CheckpointError(
                f"{file} and {files[0].name} are of two checkpoints; put only those of one together"
            )
        merged = merge(merged, manifest)
    named = path.name.removeprefix("step_")
    if path.name.startswith("step_") and named.isdigit() and int(named) != merged.step:
        raise CheckpointError(f"{path} is of step {merged.step}; name it as it was named")
    return merged


def merge(first: Manifest, second: Manifest) -> Manifest:
    """What two machines have of one checkpoint, together."""
    tensors = {**first.tensors, **second.tensors}
    pieces = {}
    for name in {**first.pieces, **second.pieces}:
        both = [*first.pieces.get(name, []), *second.pieces.get(name, [])]
        # The same rows from two machines once.
        pieces[name] = sorted({(piece.first, piece.end): piece for piece in both}.values())

    def is_missing(name: str, elsewhere: Elsewhere) -> bool:
        if elsewhere.rows:
            return has_gaps(pieces.get(name, []), 0, elsewhere.rows)
        return name not in tensors

    elsewhere = {**first.elsewhere, **second.elsewhere}
    return replace(
        first,
        files={**first.files, **second.files},
        tensors=tensors,
        pieces=pieces,
        finite=first.finite and second.finite,
        elsewhere={name: e for name, e in elsewhere.items() if is_missing(name, e)},
    )


def has_gaps(pieces: Iterable[Piece], first: int, end: int) -> bool:
    """Whether rows from `first` to before `end` are missing, or are there twice."""
    reached = first
    for piece in pieces:
        if piece.first >= end or piece.end <= first:
            continue
        starts_late = piece.first > reached
        overlaps = first < reached and piece.first < reached
        if starts_late or overlaps:
            return True
        reached = piece.end
    return reached < end


def _read_file(file: Path) -> Manifest:
    try:
        text = file.read_bytes()
        data = json.loads(text)
        version, seal = data.get("version"), data.get("seal")
    except (OSError, ValueError, AttributeError, RecursionError):
        raise damaged(file, "cannot be read") from None
    if version not in (*UNSEALED, VERSION):
        readable = ", ".join(map(str, (*UNSEALED, VERSION)))
        raise CheckpointError(
            f"{file}: checkpoint version {version}, this pipecut reads {readable}"
        )
    if (version == VERSION or seal is not None) and seal != seal_of(data):
        raise damaged(file, "is not as it was written")
    try:
        manifest = _MANIFEST.validate_json(text)
    except (ValidationError, RecursionError):
        raise damaged(file, "cannot be read") from None
    pieces = [piece for rows in manifest.pieces.values() for piece in rows]
    names = [*manifest.tensors.values(), *(piece.file for piece in pieces)]
    if not set(names) <= set(manifest.files) or any(Path(name).name != name for name in names):
        raise damaged(file, "names a file that it has no hash of")
    return manifest


def check_hash(path: Path, manifest: Manifest, file_name: str) -> None:
    """Raise CheckpointError where a file is missing or is not as it was written."""
    file = path / file_name
    if not file.is_file():
        raise damaged(file, "is missing")
    if file_hash(file) != manifest.files[file_name]:
        raise damaged(file, "is not as it was written")


def damaged(file: Path, problem: str) -> CheckpointError:
    """The error for a file of a checkpoint."""
    return CheckpointError(
        f"{file} {problem}; remove {file.parent} to go on from the checkpoint before it"
    )


def spoken(name: str) -> str:
    """A tensor's name in a message: `parameter layers.0.weight`."""
    return name.replace("/", " ", 1)
