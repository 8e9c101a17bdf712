"""What a schema finds wrong with a file, as one message with line, column and remedy."""

import difflib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pipecut.compiler.inputs.auto import Auto
from pipecut.compiler.inputs.document.positions import KEY, Location, Positions, nearest

# Keys that a message about a whole file names.
NAMED = 4


def explain(
    path: Path, error: ValidationError, positions: Positions, schema: type[BaseModel]
) -> str:
    """The first mistake. An unknown key explains a missing one, so it goes before."""
    problem = min(error.errors(), key=lambda details: details["type"] != "extra_forbidden")
    location = tuple(part for part in problem["loc"] if part != "[key]")
    if problem["type"] == "extra_forbidden":
        line, column = nearest(positions, (*location, KEY))
        return f"{path}:{line}:{column}: {_unknown(location, schema)}"
    line, column = nearest(positions, location)
    what = _missing if problem["type"] == "missing" else _wrong
    return f"{path}:{line}:{column}: {what(location, schema, problem)}"


def first_keys(schema: type[BaseModel]) -> str:
    """Some keys of a file, to tell what it is."""
    return ", ".join(_keys(schema)[:NAMED])


def _unknown(location: Location, schema: type[BaseModel]) -> str:
    keys = _keys(_schema_at(schema, location[:-1]))
    close = difflib.get_close_matches(str(location[-1]), keys, 1)
    remedy = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(keys)}"
    return f"unknown key '{_named(location)}'; {remedy}"


def _missing(location: Location, schema: type[BaseModel], _problem: ErrorDetails) -> str:
    key = str(location[-1])
    remedy = "add it"
    field = _field(_schema_at(schema, location[:-1]), key)
    if field is not None and field.examples:
        remedy = f"add it, such as {key}: {field.examples[0]}"
    return f"key '{_named(location)}' is missing; {remedy}"


def _wrong(location: Location, schema: type[BaseModel], problem: ErrorDetails) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    # Pydantic words what the first member of a union wants, which leaves out the other.
    message += ", or auto" if _takes_auto(schema, location) and "auto" not in message else ""
    value = problem["input"]
    shown = "ctx" not in problem and not isinstance(value, dict | list)
    return f"{_named(location)}: {message}" + (f" (found {value!r})" if shown else "")


def _named(location: Location) -> str:
    return ".".join(str(part) for part in location) or "the file"


def _schema_at(schema: Any, location: Location) -> Any:
    """The schema of what is inside a location; None where that has none."""
    fields = _fields_along(schema, location)
    return inner_schema(fields[-1].annotation) if fields else schema


def _takes_auto(schema: Any, location: Location) -> bool:
    """Whether the value at a location may be `auto`."""
    fields = _fields_along(schema, location)
    return bool(fields) and _mentions(fields[-1].annotation, Auto)


def _fields_along(schema: Any, location: Location) -> list[FieldInfo]:
    """The fields that a location goes through; indexes, and keys of dictionaries, are none."""
    fields = []
    for part in location:
        field = _field(schema, part)
        if field is not None:
            fields.append(field)
            schema = inner_schema(field.annotation)
    return fields


def _field(schema: Any, key: object) -> FieldInfo | None:
    """A schema's field by the key that it has in a file."""
    fields = getattr(schema, "model_fields", {}).items()
    return next((field for name, field in fields if key in (name, field.alias)), None)


def _mentions(annotation: Any, wanted: type) -> bool:
    members = getattr(annotation, "__args__", ())
    return annotation is wanted or any(_mentions(member, wanted) for member in members)


def inner_schema(annotation: Any) -> Any:
    """The schema that an annotation is, or has in a list, dictionary or union; None without one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    schemas = map(inner_schema, getattr(annotation, "__args__", ()))
    return next((schema for schema in schemas if schema is not None), None)


def _keys(schema: Any) -> list[str]:
    fields = getattr(schema, "model_fields", {})
    return [field.alias or name for name, field in fields.items()]
