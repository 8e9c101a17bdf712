"""A YAML file to typed values; every mistake with its line and column."""

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipecut.errors import UserFileError

Model = TypeVar("Model", bound=BaseModel)
Marks = dict[tuple[str | int, ...], tuple[int, int]]
# The last part of a location that is the key itself, not its value.
KEY = "<key>"
# A file's bytes, and its values once every alias (*name) is written out: an alias of aliases doubles them at each level.
MOST_BYTES, MOST_VALUES = 2**24, 100_000


class FileSchema(BaseModel):
    """Base of all file schemas: immutable, and an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def read_text(path: Path) -> str:
    """A user's file as text. Raises UserFileError."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserFileError(
                f"{path}: larger than {MOST_BYTES >> 20} MiB, which no file written by hand is"
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserFileError(
            f"{path}: cannot be read as UTF-8 text: {getattr(error, 'strerror', None) or error}"
        ) from None


def read_document(path: Path, schema: type[Model]) -> Model:
    """Read and validate one YAML file.

    Raises UserFileError with file:line:column, what is wrong and what would be right.
    """
    text = read_text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        marks: Marks = {}
        if root is not None:
            _refuse_bomb(root, path)
            _collect_marks(root, (), marks, path)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}:1:1"
        hint = (
            "; indent with spaces, not tabs"
            if mark and "\t" in text.splitlines()[mark.line : mark.line + 1][0:1]
            else ""
        )
        if "'\\t'" in str(error.problem):
            hint = "; indent with spaces, not tabs"
        raise UserFileError(
            f"{where}: not valid YAML: {error.problem or error.context}{hint}"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserFileError(f"{path}:1:1: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(data, dict):
        found = "an empty file" if data is None else f"a {type(data).__name__}"
        raise UserFileError(f"{path}:1:1: expected keys such as {_known(schema)}, found {found}")
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise UserFileError(_explain(path, error, marks, schema)) from None


def position_of(path: Path, *location: str | int) -> tuple[int, int]:
    """Line and column of a value in a file that was read, by its keys and list positions from the top.

    The position of what is around it where the file has no such value; 1, 1 where it has nothing of it.
    """
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    marks: Marks = {}
    if root is not None:
        _collect_marks(root, (), marks, path)
    for depth in range(len(location), 0, -1):
        if location[:depth] in marks:
            return marks[location[:depth]]
    return 1, 1


def location_of(path: Path, *location: str | int) -> str:
    """`file:line:column` of a value, as messages begin."""
    line, column = position_of(path, *location)
    return f"{path}:{line}:{column}"


def location_of_key(path: Path, *location: str | int) -> str:
    """`file:line:column` of a key, not of its value."""
    return location_of(path, *location, KEY)


def _refuse_bomb(root: yaml.Node, path: Path) -> None:
    """Raises UserFileError where aliases stand for more values than a person writes, or for themselves."""
    counts: dict[int, int] = {}

    def count(node: yaml.Node, around: frozenset[int]) -> int:
        if id(node) in around:
            mark = node.start_mark
            raise UserFileError(
                f"{path}:{mark.line + 1}:{mark.column + 1}: an alias stands for what it is part of"
            )
        if id(node) not in counts:
            children: list[yaml.Node] = []
            if isinstance(node, yaml.MappingNode):
                children = [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                children = node.value
            counts[id(node)] = 1 + sum(count(child, around | {id(node)}) for child in children)
        return counts[id(node)]

    if count(root, frozenset()) > MOST_VALUES:
        raise UserFileError(
            f"{path}:1:1: its aliases stand for more than {MOST_VALUES:,} values; write them out"
        )


def _collect_marks(node: yaml.Node, at: tuple[str | int, ...], marks: Marks, path: Path) -> None:
    marks[at] = (node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            line, column = key.start_mark.line + 1, key.start_mark.column + 1
            if name in seen:
                raise UserFileError(
                    f"{path}:{line}:{column}: key '{name}' is given twice; keep one"
                )
            seen.add(name)
            _collect_marks(value, (*at, name), marks, path)
            marks[(*at, name, KEY)] = (line, column)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect_marks(value, (*at, index), marks, path)


def _explain(path: Path, error: ValidationError, marks: Marks, schema: type[BaseModel]) -> str:
    # An unknown key explains a missing one, so it is told first.
    problem = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location = tuple(part for part in problem["loc"] if part != "[key]")
    place = location
    while place and place not in marks:
        place = place[:-1]
    line, column = marks.get(place, (1, 1))
    name = ".".join(str(part) for part in location) or "the file"
    if problem["type"] == "extra_forbidden":
        line, column = marks.get((*location, KEY), (line, column))
        known = _fields_at(schema, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, 1)
        remedy = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
        return f"{path}:{line}:{column}: unknown key '{name}'; {remedy}"
    if problem["type"] == "missing":
        return f"{path}:{line}:{column}: key '{name}' is missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    given = (
        f" (found {problem['input']!r})"
        if not isinstance(problem["input"], dict | list) and "ctx" not in problem
        else ""
    )
    return f"{path}:{line}:{column}: {name}: {message}{given}"


def _fields_at(schema: Any, location: tuple[Any, ...]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        field = schema.model_fields.get(str(part)) if hasattr(schema, "model_fields") else None
        schema = _inner_model(field.annotation) if field is not None else schema
    return _names(schema) if hasattr(schema, "model_fields") else []


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None


def _names(schema: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in schema.model_fields.items()]


def _known(schema: type[BaseModel]) -> str:
    return ", ".join(_names(schema)[:4])
