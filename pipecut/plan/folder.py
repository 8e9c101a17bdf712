"""A plan folder on disk: read and compared with its hashes, written, or sealed after an edit."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipecut.errors import PlanError
from pipecut.plan.actions import Action, ActionTable, parse_action
from pipecut.plan.consistency import GRAPH, MEETINGS, PARAMETERS, SCHEDULE
from pipecut.plan.manifest import (
    MANIFEST,
    first_problem,
    plan_from,
    read_manifest,
    seal_of,
    write_manifest,
)
from pipecut.plan.part.meetings_file import write_meetings
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
    "plan_in",
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
# What no edit can change: the model has the parameters that it was compiled with.
EDITED_PARAMETERS = (
    "was edited after the plan was written, and the model's parameters are those that it was "
    "compiled with; put it back as it was, or compile again"
)
# Files that are read whole, by those who need them, and compared with their hash then.
LEFT = {SCHEDULE, GRAPH, MEETINGS}
_SCHEDULE = TypeAdapter(dict[str, list[list[str]]])
_LINE_OF_RANK = re.compile(rb"  - \[((?:[A-Z_0-9. ]+(?:, [A-Z_0-9. ]+)*)?)\]")


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
    plan = read_manifest_and_hashes(path, code)
    return _folder(
        path,
        plan,
        _bytes_of(path, SCHEDULE, plan.hashes[SCHEDULE]),
        _bytes_of(path, GRAPH, plan.hashes[GRAPH]),
    )


def plan_in(path: Path, code: Path | None = None) -> Plan:
    """The plan of a folder in which every file has its hash, without its actions and its graph.

    Of a large plan these take seconds. Raises PlanError as `read_plan` does.
    """
    plan = read_manifest_and_hashes(path, code)
    for name in LEFT & set(plan.hashes):
        _refuse_edited(path / name, file_hash(file_within(path, name)), plan.hashes[name])
    return plan


def read_manifest_and_hashes(path: Path, code: Path | None = None) -> Plan:
    """The plan of a folder. Its seal holds, and so does every file's hash but those that are left.

    Those of files that the caller reads whole by `checked_bytes`: schedule, graph and meetings.
    Raises PlanError that names file and remedy.
    """
    data = read_manifest(path)
    if data.get("seal") != seal_of(data):
        raise PlanError(f"{path / MANIFEST} {EDITED}")
    hashes = data.get("hashes")
    # A plan that names no hash of the file is refused once it is a Plan.
    expected = hashes.get(PARAMETERS) if isinstance(hashes, dict) else None
    plan = plan_from(path, data, _bytes_of(path, PARAMETERS, expected))
    for name, expected in plan.hashes.items():
        if name != PARAMETERS and name not in LEFT:
            _refuse_edited(path / name, file_hash(file_within(path, name)), expected)
    return located(plan, path, code)


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
    # A plan may be without numbers of its messages; `write_seal` makes them.
    names = (name for name in plan.hashes if name != MEETINGS or (path / name).is_file())
    hashes = {name: file_hash(file_within(path, name)) for name in names}
    sealed = located(plan.model_copy(update={"hashes": hashes}), path)
    return _folder(path, sealed, _bytes_of(path, SCHEDULE), _bytes_of(path, GRAPH))


def write_seal(folder: PlanFolder) -> str:
    """Write the plan with the hashes of `seal`, its messages numbered anew. Returns its seal."""
    plan = folder.plan
    hashes = {name: text for name, text in plan.hashes.items() if name != MEETINGS}
    hashes |= write_meetings(folder.path, plan, folder.actions)
    return write_plan(folder.path, plan.model_copy(update={"hashes": hashes}))


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
        raise PlanError(f"{file} {EDITED_PARAMETERS if file.name == PARAMETERS else EDITED}")


def _folder(path: Path, plan: Plan, schedule: bytes, graph: bytes) -> PlanFolder:
    rows = ScheduleFile(path / SCHEDULE, schedule)
    actions = ActionTable(rows.row(rank) for rank in range(len(rows)))
    return PlanFolder(path, plan, actions, graph_of(path / GRAPH, graph))


class ScheduleFile:
    """schedule.yaml as read, of which a rank's actions are made when they are asked for.

    A line per rank, as the compiler writes it, needs no YAML. Raises PlanError.
    """

    def __init__(self, file: Path, data: bytes) -> None:
        self.rows: Sequence[str | list[str]] = _lines_of_ranks(data) or _lists_of_ranks(file, data)

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, rank: int) -> tuple[Action, ...]:
        """A rank's actions. Raises PlanError, naming the rank."""
        row = self.rows[rank]
        texts = row if isinstance(row, list) else row.split(", ") if row else []
        return tuple(parse_action(text, rank) for text in texts)


def _lines_of_ranks(data: bytes) -> list[str] | None:
    """The line of each rank, without its brackets; None where a line is anything else."""
    header, _, body = data.partition(b"\nranks:\n")
    lines = body.splitlines()
    if not header.startswith(b"#") or b"\n" in header:
        return None
    rows = [_LINE_OF_RANK.fullmatch(line) for line in lines]
    return [row[1].decode("ascii") for row in rows if row] if all(rows) else None


def _lists_of_ranks(file: Path, data: bytes) -> list[list[str]]:
    try:
        return _SCHEDULE.validate_python(parsed_yaml(file, data))["ranks"]
    except (ValidationError, KeyError):
        raise PlanError(
            f"{file}: no list of actions for each rank under 'ranks'; compile again"
        ) from None


def graph_of(file: Path, data: bytes) -> PlanGraph:
    """graph.json. Raises PlanError."""
    try:
        return PlanGraph.model_validate_json(data)
    except ValidationError as error:
        raise PlanError(f"{file}: {first_problem(error)}; compile again") from None
