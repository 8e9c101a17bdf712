"""A plan folder on disk: read and compared with its hashes, written, or sealed after an edit."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipecut.errors import PlanError
from pipecut.plan.actions import Action, ActionTable, parse_action
from pipecut.plan.consistency import GRAPH, PARAMETERS, SCHEDULE
from pipecut.plan.manifest import (
    MANIFEST,
    first_problem,
    plan_from,
    read_manifest,
    seal_of,
    write_manifest,
)
from pipecut.plan.places import as_written, located
from pipecut.plan.safe_files import file_hash, file_within, parsed_yaml, read_bytes, read_yaml
from pipecut.plan.schema import Plan
from pipecut.plan.schema.graph import PlanGraph

__all__ = [
    "GRAPH",
    "MANIFEST",
    "PARAMETERS",
    "SCHEDULE",
    "PlanFolder",
    "checked_bytes",
    "file_hash",
    "listed_files",
    "read_plan",
    "seal",
    "seal_of",
    "write_plan",
    "write_seal",
]

EDITED = (
    "was edited after the plan was written; compile again, or if that was meant, "
    "pipecut seal makes it a plan again"
)
_SCHEDULE = TypeAdapter(dict[str, list[list[str]]])


@dataclass(frozen=True)
class PlanFolder:
    """A plan as read: the manifest, each rank's actions, the costed graph, and where it lies."""

    path: Path
    plan: Plan
    actions: tuple[tuple[Action, ...], ...]
    graph: PlanGraph

    def __str__(self) -> str:
        """Where the plan lies, and the plan's own text."""
        return f"{self.path}\n{self.plan}"


def read_plan(path: Path, code: Path | None = None) -> PlanFolder:
    """Read a plan folder and compare every hash. Raises PlanError that names file and remedy.

    The plan has the places of its model on this machine; `code` is where its code is now.
    """
    data = read_manifest(path)
    if data.get("seal") != seal_of(data):
        raise PlanError(f"{path / MANIFEST} {EDITED}")
    hashes = data.get("hashes")
    # A plan that names no hash of the file is refused once it is a Plan.
    expected = hashes.get(PARAMETERS) if isinstance(hashes, dict) else None
    plan = plan_from(path, data, _bytes_of(path, PARAMETERS, expected))
    for name, expected in plan.hashes.items():
        if name not in (PARAMETERS, SCHEDULE, GRAPH):
            _refuse_edited(path / name, file_hash(file_within(path, name)), expected)
    return _folder(
        path,
        located(plan, path, code),
        _bytes_of(path, SCHEDULE, plan.hashes[SCHEDULE]),
        _bytes_of(path, GRAPH, plan.hashes[GRAPH]),
    )


def checked_bytes(path: Path, plan: Plan, name: str) -> bytes:
    """A file of the plan, read once: the returned bytes have the manifest's hash.

    Raises PlanError.
    """
    return _bytes_of(path, name, plan.hashes.get(name, ""))


def listed_files(path: Path) -> list[str]:
    """Names of the files that a folder's manifest lists, whatever its version.

    Raises PlanError where it is no plan.
    """
    manifest = path / MANIFEST
    data = read_yaml(manifest) if manifest.is_file() else None
    hashes = data.get("hashes") if isinstance(data, dict) and "version" in data else None
    if not isinstance(hashes, dict) or not all(isinstance(name, str) for name in hashes):
        raise PlanError(f"{path} is no plan folder; make one with pipecut compile")
    return [
        name for name in hashes if not Path(name).is_absolute() and ".." not in Path(name).parts
    ]


def seal(path: Path) -> PlanFolder:
    """An edited plan with the hashes of its files as they are now.

    The caller checks it before it writes it with `write_seal`. Raises PlanError when it is no plan.
    """
    plan = plan_from(path, read_manifest(path), _bytes_of(path, PARAMETERS))
    hashes = {name: file_hash(file_within(path, name)) for name in plan.hashes}
    sealed = located(plan.model_copy(update={"hashes": hashes}), path)
    return _folder(path, sealed, _bytes_of(path, SCHEDULE), _bytes_of(path, GRAPH))


def write_seal(folder: PlanFolder) -> str:
    """Write the plan with the hashes of `seal`. Returns its seal."""
    return write_plan(folder.path, folder.plan)


def write_plan(path: Path, plan: Plan) -> str:
    """Write plan.yaml and parameters.json, with a new seal, and return that.

    Places are written as ways from the folder.
    """
    return write_manifest(path, as_written(plan, path))


def _bytes_of(path: Path, name: str, expected: str | None = None) -> bytes:
    """A file of the plan, read once; it has the hash that is expected, where one is."""
    data = read_bytes(file_within(path, name))
    if expected is not None:
        _refuse_edited(path / name, hashlib.sha256(data).hexdigest(), expected)
    return data


def _refuse_edited(file: Path, actual: str, expected: str) -> None:
    if actual != expected:
        raise PlanError(f"{file} {EDITED}")


def _folder(path: Path, plan: Plan, schedule: bytes, graph: bytes) -> PlanFolder:
    actions = _actions(path / SCHEDULE, schedule)
    return PlanFolder(path, plan, actions, _graph(path / GRAPH, graph))


def _actions(file: Path, data: bytes) -> ActionTable:
    try:
        rows = _SCHEDULE.validate_python(parsed_yaml(file, data))["ranks"]
    except (ValidationError, KeyError):
        raise PlanError(
            f"{file}: no list of actions for each rank under 'ranks'; compile again"
        ) from None
    return ActionTable(
        tuple(parse_action(text, rank) for text in row) for rank, row in enumerate(rows)
    )


def _graph(file: Path, data: bytes) -> PlanGraph:
    try:
        return PlanGraph.model_validate_json(data)
    except ValidationError as error:
        raise PlanError(f"{file}: {first_problem(error)}; compile again") from None
