"""A plan folder on disk: read and compared with its hashes, written, or sealed after an edit."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from pipecut.errors import PlanError
from pipecut.plan.actions import Action, ActionTable, parse_action
from pipecut.plan.consistency import GRAPH, SCHEDULE, check_dimensions, contradiction_in
from pipecut.plan.safe_files import file_hash, file_within, read_bytes, read_yaml
from pipecut.plan.schema import VERSION, Plan
from pipecut.plan.schema.graph import PlanGraph

__all__ = [
    "GRAPH",
    "MANIFEST",
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

MANIFEST = "plan.yaml"
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


def read_plan(path: Path) -> PlanFolder:
    """Read a plan folder and compare every hash. Raises PlanError that names file and remedy."""
    data = _manifest(path)
    if data.get("seal") != seal_of(data):
        raise PlanError(f"{path / MANIFEST} {EDITED}")
    plan = _plan(path, data)
    for name, expected in plan.hashes.items():
        if file_hash(file_within(path, name)) != expected:
            raise PlanError(f"{path / name} {EDITED}")
    return _folder(path, plan)


def checked_bytes(path: Path, plan: Plan, name: str) -> bytes:
    """A file of the plan, read once: the returned bytes have the manifest's hash.

    Raises PlanError.
    """
    data = read_bytes(file_within(path, name))
    if hashlib.sha256(data).hexdigest() != plan.hashes.get(name):
        raise PlanError(f"{path / name} {EDITED}")
    return data


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
    plan = _plan(path, _manifest(path))
    hashes = {name: file_hash(file_within(path, name)) for name in plan.hashes}
    return _folder(path, plan.model_copy(update={"hashes": hashes}))


def write_seal(folder: PlanFolder) -> str:
    """Write the plan with the hashes of `seal`. Returns its seal."""
    return write_plan(folder.path, folder.plan)


def write_plan(path: Path, plan: Plan) -> str:
    """Write plan.yaml with a new seal, and return that. A key that nobody set is not written."""
    data = plan.model_dump(exclude_unset=True, exclude={"seal"})
    new_seal = seal_of(data)
    text = yaml.safe_dump(
        {**data, "seal": new_seal},
        sort_keys=False,
        allow_unicode=True,
        width=110,
        # Lists and mappings of plain values on one line.
        default_flow_style=None,
    )
    (path / MANIFEST).write_text(text, encoding="utf-8")
    return new_seal


def seal_of(data: dict[str, Any]) -> str:
    """sha256 of a manifest without its seal."""
    unsealed = {key: value for key, value in data.items() if key != "seal"}
    return hashlib.sha256(json.dumps(unsealed, sort_keys=True, default=str).encode()).hexdigest()


def _manifest(path: Path) -> dict[str, Any]:
    """plan.yaml of this version, not yet a Plan: its seal is of what stands there."""
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise PlanError(
            f"{path} is no plan folder: it has no {MANIFEST}; make one with pipecut compile"
        )
    data = read_yaml(manifest)
    if not isinstance(data, dict) or "version" not in data:
        raise PlanError(f"{manifest}: not a plan: it has no version")
    if data["version"] != VERSION:
        raise PlanError(
            f"{manifest}: plan version {data['version']}, this pipecut reads version {VERSION}; "
            "compile again"
        )
    if not all(isinstance(key, str) for key in data):
        raise PlanError(f"{manifest}: not a plan: its keys are no words")
    return data


def _plan(path: Path, data: dict[str, Any]) -> Plan:
    try:
        plan = Plan.model_validate(data)
    except (ValidationError, RecursionError) as error:
        raise PlanError(f"{path / MANIFEST}: {_first(error)}; compile again") from None
    contradiction = contradiction_in(plan)
    if contradiction is not None:
        raise PlanError(f"{path / MANIFEST}: {contradiction}; compile again")
    check_dimensions(plan)
    return plan


def _folder(path: Path, plan: Plan) -> PlanFolder:
    return PlanFolder(path, plan, _actions(path / SCHEDULE), _graph(path / GRAPH))


def _actions(file: Path) -> ActionTable:
    try:
        rows = _SCHEDULE.validate_python(read_yaml(file))["ranks"]
    except (ValidationError, KeyError):
        raise PlanError(
            f"{file}: no list of actions for each rank under 'ranks'; compile again"
        ) from None
    return ActionTable(
        tuple(parse_action(text, rank) for text in row) for rank, row in enumerate(rows)
    )


def _graph(file: Path) -> PlanGraph:
    try:
        return PlanGraph.model_validate_json(read_bytes(file))
    except ValidationError as error:
        first = error.errors()[0]
        problem = (
            f"not valid JSON: {first['msg']}" if first["type"] == "json_invalid" else _first(error)
        )
        raise PlanError(f"{file}: {problem}; compile again") from None


def _first(error: ValidationError | RecursionError) -> str:
    """Where a value is wrong, and why."""
    if isinstance(error, RecursionError):
        return "too deep"
    first = error.errors()[0]
    if not first["loc"]:
        return f"expected a mapping of keys, found a {type(first['input']).__name__}"
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
