"""A YAML file to typed values; every mistake with its line and column."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipecut.compiler.inputs.document.mistakes import explain, first_keys
from pipecut.compiler.inputs.document.positions import Positions, positions_in
from pipecut.compiler.inputs.document.renamed import with_new_keys
from pipecut.errors import UserFileError

Model = TypeVar("Model", bound=BaseModel)
# Bytes of a file. Nobody writes more by hand.
MOST_BYTES = 2**24
# Values of a file once every alias (*name) is written out: an alias of aliases doubles them at each
# level, so that a few lines can stand for more than any memory.
MOST_VALUES = 100_000


def read_text(path: Path) -> str:
    """A user's file as text. Raises UserFileError."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserFileError(
                f"{path}: larger than {MOST_BYTES >> 20} MiB, which no file written by hand is"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserFileError(f"{path}: there is no such file{_like_it(path)}") from None
    except IsADirectoryError:
        raise UserFileError(f"{path}: is a folder; give a file{_within(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserFileError(f"{path}: cannot be read as UTF-8 text: {reason}") from None


def _like_it(path: Path) -> str:
    """What of the folder may have been meant."""
    if not path.parent.is_dir():
        return f", nor a folder {path.parent}"
    names = [file.name for file in path.parent.iterdir() if file.is_file()]
    close = difflib.get_close_matches(path.name, names, 1)
    if close:
        return f"; did you mean {path.with_name(close[0])}?"
    return f" in {path.parent.resolve()}"


def _within(path: Path) -> str:
    """The file of the folder that may have been meant, where there is one."""
    files = sorted(path.glob("*.yaml"))
    return f", such as {files[0]}" if files else ""


def read_document(path: Path, schema: type[Model]) -> Model:
    """Read and validate one YAML file.

    Raises UserFileError with file:line:column, what is wrong and what would be right. Warns of keys
    that have another name now.
    """
    document = _parse(read_text(path), path)
    data = document.data
    if not isinstance(data, dict):
        content = "an empty file" if data is None else f"a {type(data).__name__}"
        raise UserFileError(
            f"{path}:1:1: expected keys such as {first_keys(schema)}, found {content}"
        )
    data = with_new_keys(data, schema, document.positions, path)
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise UserFileError(explain(path, error, document.positions, schema)) from None


@dataclass(frozen=True)
class _Document:
    """The values of a file, and where each stands."""

    data: Any
    positions: Positions


def _parse(text: str, path: Path) -> _Document:
    """Raises UserFileError where the text is not YAML, or has too much of it."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _refuse_bomb(root, path)
        positions = positions_in(root, path)
        return _Document(yaml.safe_load(text), positions)
    except yaml.MarkedYAMLError as error:
        raise UserFileError(_not_yaml(text, path, error)) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserFileError(f"{path}:1:1: not valid YAML: {str(error).splitlines()[0]}") from None


def _not_yaml(text: str, path: Path, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    tab = "\t" in "".join(text.splitlines()[line - 1 : line]) or "'\\t'" in str(error.problem)
    hint = "; indent with spaces, not tabs" if tab else ""
    return f"{path}:{line}:{column}: not valid YAML: {error.problem or error.context}{hint}"


def _refuse_bomb(root: yaml.Node, path: Path) -> None:
    """Raises UserFileError where aliases stand for too many values, or for themselves."""
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
