"""Files of a plan, which anybody may have written, read safely and within limits."""

import hashlib
from pathlib import Path
from typing import Any

import yaml

from pipecut.errors import PlanError

# The largest plan.yaml, schedule.yaml, graph.json or stage code that is read: half a GiB.
MOST_BYTES = 2**29


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_within(folder: Path, name: str) -> Path:
    """A file of a plan folder, which lies nowhere else: not behind a link either.

    Raises PlanError.
    """
    file = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not file.is_file():
        raise PlanError(f"{file} is missing from the plan; compile again")
    if file.resolve() != folder.resolve() / name:
        raise PlanError(
            f"{file} is a link to {file.resolve()}; a plan holds its own files: "
            "copy it there, or compile again"
        )
    return file


def read_bytes(file: Path) -> bytes:
    """The bytes of a file that is small enough to be read whole. Raises PlanError."""
    if file.stat().st_size > MOST_BYTES:
        raise PlanError(
            f"{file}: larger than {MOST_BYTES >> 20} MiB, which no plan's is; compile again"
        )
    return file.read_bytes()


def read_yaml(file: Path) -> Any:
    """YAML by a safe loader. Raises PlanError as `parsed_yaml` does."""
    return parsed_yaml(file, read_bytes(file))


def parsed_yaml(file: Path, content: bytes) -> Any:
    """What a file says that was read before. Raises PlanError.

    Aliases are refused, which a plan never has: a few may stand for more values than memory holds.
    """
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        data = yaml.load(content.decode("utf-8"), Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise PlanError(f"{file}: not valid YAML: {reason}; compile the plan again") from None
    if _has_aliases(data):
        raise PlanError(
            f"{file}: has aliases (*name), which no plan has; write them out, or compile again"
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
