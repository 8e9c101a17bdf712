"""Keys of a file that have another name now, put under their new names."""

import warnings
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipecut.compiler.inputs.document.positions import KEY, Location, Positions, nearest
from pipecut.compiler.inputs.document.schema import FileSchema, Renamed
from pipecut.errors import UserFileError


class RenamedKeyWarning(FutureWarning):
    """A file has an old key, which the next version refuses."""


def with_new_keys(
    data: dict[str, Any], schema: type[BaseModel], positions: Positions, path: Path
) -> dict[str, Any]:
    """The data under the new keys, with a warning for each old one.

    `positions` gets the new keys at the positions of the old ones. Raises UserFileError where a
    file has both.
    """
    return _renewed(data, schema, (), positions, path)


def _renewed(
    data: dict[str, Any],
    schema: type[BaseModel],
    location: Location,
    positions: Positions,
    path: Path,
) -> dict[str, Any]:
    renamed = schema.RENAMED if issubclass(schema, FileSchema) else {}
    result: dict[str, Any] = {}
    for key, value in data.items():
        if key in renamed:
            _warn(key, value, renamed[key], data, (*location, key), positions, path)
            key, value = renamed[key].key, _new_value(renamed[key], value)
        inner = _schema_of(schema, key)
        if inner is not None and isinstance(value, dict):
            value = _renewed(value, inner, (*location, key), positions, path)
        result[key] = value
    return result


def _new_value(renamed: Renamed, value: Any) -> Any:
    return renamed.values.get(value, value) if isinstance(value, str) else value


def _warn(
    key: str,
    value: Any,
    renamed: Renamed,
    data: dict[str, Any],
    location: Location,
    positions: Positions,
    path: Path,
) -> None:
    line, column = nearest(positions, (*location, KEY))
    where = f"{path}:{line}:{column}"
    if renamed.key in data:
        raise UserFileError(
            f"{where}: key '{key}' was renamed to '{renamed.key}', and the file has both; "
            f"remove '{key}'"
        )
    new_location = (*location[:-1], renamed.key)
    positions[(*new_location, KEY)] = line, column
    positions[new_location] = nearest(positions, location)
    example = _as_yaml(_new_value(renamed, value))
    warnings.warn(
        f"{where}: key '{key}' is called '{renamed.key}' now, and the next version refuses the old "
        f"name; write {renamed.key}: {example}",
        RenamedKeyWarning,
        stacklevel=5,
    )


def _as_yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _schema_of(schema: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The schema of a key's value, where that is one by itself."""
    field = schema.model_fields.get(key)
    annotation = field.annotation if field is not None else None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None
