"""A plan folder on disk: read and compared with its hashes, or sealed again after an edit."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from pipecut.errors import PlanError
from pipecut.plan.actions import Action, parse_action
from pipecut.plan.schema import VERSION, Plan, evaluate
from pipecut.plan.schema.graph import PlanGraph

MANIFEST, SCHEDULE, GRAPH = "plan.yaml", "schedule.yaml", "graph.json"
# Of plan.yaml, schedule.yaml, graph.json or a stage's code.
MOST_BYTES = 2**29
SEAL = "if that was meant, pipecut seal makes it a plan again"


@dataclass(frozen=True)
class PlanFolder:
    """A plan as read: the manifest, each rank's actions, the costed graph, and where it lies."""

    path: Path
    plan: Plan
    actions: tuple[tuple[Action, ...], ...]
    graph: PlanGraph


_SCHEDULE = TypeAdapter(dict[str, list[list[str]]])


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal_of(data: dict[str, Any]) -> str:
    """sha256 of a manifest without its seal."""
    rest = {key: value for key, value in data.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()


def read_plan(path: Path) -> PlanFolder:
    """Read a plan folder and compare every hash. Raises PlanError that names the file and the remedy."""
    data = _manifest(path)
    if data.get("seal") != seal_of(data):
        raise PlanError(
            f"{path / MANIFEST} was edited after it was written; compile again, or {SEAL}"
        )
    plan = _plan(path, data)
    for name, expected in plan.hashes.items():
        if file_hash(_inside(path, name)) != expected:
            raise PlanError(
                f"{path / name} was edited after the plan was written; compile again, or {SEAL}"
            )
    return _whole(path, plan)


def listed_files(path: Path) -> list[str]:
    """Names of the files that a folder's manifest lists, of a plan of any version. Raises PlanError where it is no plan."""
    manifest = path / MANIFEST
    data = _yaml(manifest) if manifest.is_file() else None
    hashes = data.get("hashes") if isinstance(data, dict) and "version" in data else None
    if not isinstance(hashes, dict) or not all(isinstance(name, str) for name in hashes):
        raise PlanError(f"{path} is no plan folder; make one with pipecut compile")
    return [
        name for name in hashes if not Path(name).is_absolute() and ".." not in Path(name).parts
    ]


def seal(path: Path) -> PlanFolder:
    """Note the files of an edited plan as they are now. The caller checks what is returned before it writes it.

    Raises PlanError when they are no plan.
    """
    data = _manifest(path)
    plan = _plan(path, data)
    return _whole(
        path,
        plan.model_copy(
            update={"hashes": {name: file_hash(_inside(path, name)) for name in plan.hashes}}
        ),
    )


def write_seal(folder: PlanFolder) -> str:
    """Write the plan with the hashes of `seal`. Returns its seal."""
    return write_plan(folder.path, folder.plan)


def write_plan(path: Path, plan: Plan) -> str:
    """plan.yaml with a new seal, which is returned. A key that nobody set is not written."""
    data = plan.model_dump(exclude_unset=True, exclude={"seal"})
    new_seal = seal_of(data)
    text = yaml.safe_dump(
        {**data, "seal": new_seal},
        sort_keys=False,
        allow_unicode=True,
        width=110,
        default_flow_style=None,
    )
    (path / MANIFEST).write_text(text, encoding="utf-8")
    return new_seal


def _manifest(path: Path) -> dict[str, Any]:
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise PlanError(
            f"{path} is no plan folder: it has no {MANIFEST}; make one with pipecut compile"
        )
    data = _yaml(manifest)
    if not isinstance(data, dict) or "version" not in data:
        raise PlanError(f"{manifest}: not a plan: it has no version")
    if data["version"] != VERSION:
        raise PlanError(
            f"{manifest}: plan version {data['version']}, this pipecut reads version {VERSION}; compile again"
        )
    if not all(isinstance(key, str) for key in data):
        raise PlanError(f"{manifest}: not a plan: its keys are no words")
    return data


def _yaml(path: Path) -> Any:
    """By a safe loader, without aliases, which a plan never has: some of them stand for more values than memory holds."""
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        data = yaml.load(_checked_size(path).read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PlanError(
            f"{path}: not valid YAML: {str(error).splitlines()[0]}; compile the plan again"
        ) from None
    if _has_aliases(data):
        raise PlanError(
            f"{path}: has aliases (*name), which no plan has; write them out, or compile again"
        )
    return data


def _has_aliases(data: Any) -> bool:
    """Whether a list or mapping stands at two places."""
    seen: set[int] = set()
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if not isinstance(value, dict | list) or not value:
            continue
        if id(value) in seen:
            return True
        seen.add(id(value))
        waiting.extend(value.values() if isinstance(value, dict) else value)
    return False


def _checked_size(path: Path) -> Path:
    """The file itself, where it is small enough to be read whole."""
    if path.stat().st_size > MOST_BYTES:
        raise PlanError(
            f"{path}: larger than {MOST_BYTES >> 20} MiB, which no plan's is; compile again"
        )
    return path


def _plan(path: Path, data: dict[str, Any]) -> Plan:
    try:
        plan = Plan.model_validate(data)
    except (ValidationError, RecursionError) as error:
        raise PlanError(f"{path / MANIFEST}: {_first(error)}; compile again") from None
    count = len(plan.stages)
    ranks = {stage.pipeline_rank for stage in plan.stages}
    batch = plan.batch
    for wrong, what in (
        (
            not count or [s.index for s in plan.stages] != list(range(count)),
            "stages are not numbered from 0",
        ),
        (ranks != set(range(len(ranks))), "ranks are not numbered from 0"),
        (
            [b.left for b in plan.boundaries] != list(range(count - 1)),
            "boundaries are not those between the stages",
        ),
        (
            plan.evaluation.stages
            and (len(plan.evaluation.stages), len(plan.evaluation.boundaries))
            != (count, count - 1),
            "evaluation has other stages or boundaries",
        ),
        (
            any(not 0 <= s < count for tied in plan.tied for s in tied.stages),
            "a tied parameter is on a stage that is not there",
        ),
        (
            any(not tied.names or not tied.stages for tied in plan.tied),
            "a tied parameter has no name, or no stage",
        ),
        (
            any(not h.names for s in plan.stages for h in (*s.parameters, *s.buffers)),
            "a parameter or buffer has no name",
        ),
        (
            min(batch.global_size, batch.microbatch, plan.replicas) < 1,
            "sizes of the batch are below 1",
        ),
        (any(stage.file not in plan.hashes for stage in plan.stages), "a stage's file has no hash"),
        (not {SCHEDULE, GRAPH} <= set(plan.hashes), f"{SCHEDULE} and {GRAPH} have no hash"),
    ):
        if wrong:
            raise PlanError(f"{path / MANIFEST}: {what}; compile again")
    evaluated = plan.in_evaluation()
    crossing = [t for p in (plan, evaluated) for b in p.boundaries for t in b.tensors]
    for tensor in (
        *plan.inputs,
        *crossing,
        *(t for p in (plan, evaluated) for s in p.stages for t in s.outputs),
    ):
        for dimension in tensor.shape:
            evaluate(dimension, batch.microbatch)
    return plan


def _first(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "too deep"
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _inside(path: Path, name: str) -> Path:
    """A file of the plan, which is nowhere else: not behind a link either."""
    file = path / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not file.is_file():
        raise PlanError(f"{file} is missing from the plan; compile again")
    if file.resolve() != path.resolve() / name:
        raise PlanError(
            f"{file} is a link to {file.resolve()}; a plan holds its own files: copy it there, or compile again"
        )
    return file


def checked_bytes(path: Path, plan: Plan, name: str) -> bytes:
    """A file of the plan, read once: what is returned is what the manifest's hash is of. Raises PlanError."""
    data = _checked_size(_inside(path, name)).read_bytes()
    if hashlib.sha256(data).hexdigest() != plan.hashes.get(name):
        raise PlanError(
            f"{path / name} was edited after the plan was written; compile again, or {SEAL}"
        )
    return data


def _whole(path: Path, plan: Plan) -> PlanFolder:
    try:
        rows = _SCHEDULE.validate_python(_yaml(path / SCHEDULE))["ranks"]
    except (ValidationError, KeyError):
        raise PlanError(
            f"{path / SCHEDULE}: no list of actions for each rank under 'ranks'; compile again"
        ) from None
    actions = tuple(
        tuple(parse_action(text, rank) for text in row) for rank, row in enumerate(rows)
    )
    return PlanFolder(path, plan, actions, _graph(path / GRAPH))


def _graph(file: Path) -> PlanGraph:
    try:
        return PlanGraph.model_validate_json(_checked_size(file).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        problem = (
            f"not valid JSON: {first['msg']}" if first["type"] == "json_invalid" else _first(error)
        )
        raise PlanError(f"{file}: {problem}; compile again") from None
