"""docs/job.md and docs/cluster.md, written from the schemas of the files.

python -m pipecut.compiler.inputs.reference docs
"""

import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipecut.compiler.inputs.auto import AUTO, Auto
from pipecut.compiler.inputs.cluster_schema import ClusterSpec
from pipecut.compiler.inputs.document.mistakes import inner_schema
from pipecut.compiler.inputs.document.schema import FileSchema, OrAuto, Written
from pipecut.compiler.inputs.job import JobSpec

COMMAND = "make docs"
PLAIN = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "`true` or `false`",
    Any: "anything",
}


@dataclass(frozen=True)
class Page:
    """A page of the reference: a file's name, its schema, and a whole example."""

    file: str
    schema: type[FileSchema]
    example: str

    def __str__(self) -> str:
        """The page as Markdown."""
        title, notice = f"# {self.file}", f"Written by `{COMMAND}` from the schema of the file."
        parts = [title, notice, _summary(self.schema), self.example]
        sections = "\n\n".join(_section(path, schema) for path, schema in _schemas(self.schema))
        return "\n\n".join([*parts, sections, *_renamed(self.schema)]) + "\n"


JOB = Page(
    "job.yaml",
    JobSpec,
    """    model: {factory: "train:build", args: {layers: 12}}
    inputs: "train:batch"
    batch: {global: 64, microbatch: 4}
    precision: bf16
    schedule: 1f1b
    stages: 8""",
)
CLUSTER = Page(
    "cluster.yaml",
    ClusterSpec,
    """    name: two-hgx-h100
    nodes:
      - {count: 2, devices: {h100-sxm: 8}, link: nvlink4}
    network: {bandwidth: 50GB/s, latency: 10us}
    reserve: 1.5GiB

Quantities have a unit: `80GiB` or `80GB`, `450GB/s` or `400Gbit/s`, `5us`, `989TFLOP/s`.""",
)
PAGES = {"job.md": JOB, "cluster.md": CLUSTER}


def _schemas(schema: type[BaseModel], path: str = "") -> list[tuple[str, type[BaseModel]]]:
    """A schema and those of its keys, each with the path of keys that leads there."""
    schemas = [(path, schema)]
    for name, field in schema.model_fields.items():
        inner = inner_schema(field.annotation)
        if inner is not None:
            schemas += _schemas(inner, _joined(path, field, name))
    return schemas


def _joined(path: str, field: FieldInfo, name: str) -> str:
    """`nodes[]` for a list's entries, `devices.NAME` for a dictionary's values."""
    key = f"{path}.{field.alias or name}".removeprefix(".")
    origin = get_origin(field.annotation)
    return key + {list: "[]", dict: ".NAME"}.get(origin, "") if origin is not None else key


def _section(path: str, schema: type[BaseModel]) -> str:
    heading = f"## {path}\n\n{_summary(schema)}" if path else "## Keys"
    rows = [_row(name, field) for name, field in schema.model_fields.items()]
    head = "| key | type | default | meaning | example |\n|---|---|---|---|---|"
    return "\n".join([f"{heading}\n", head, *rows])


def _summary(schema: type[BaseModel]) -> str:
    return " ".join((schema.__doc__ or "").split())


def _row(name: str, field: FieldInfo) -> str:
    key = field.alias or name
    examples = [f"`{key}: {example}`" for example in field.examples or ()]
    cells = (
        f"`{key}`",
        _type_of(field),
        _default_of(field),
        field.description or "",
        ", ".join(examples),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default_of(field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined:
        return "required"
    written = next((mark for mark in field.metadata if isinstance(mark, Written)), None)
    if default is None or default in ("", [], {}) or (not written and _is_keys(default)):
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{written.show(default) if written else default}`"


def _is_keys(default: object) -> bool:
    return isinstance(default, BaseModel)


def _type_of(field: FieldInfo) -> str:
    return _described(field.annotation, tuple(field.metadata))


def _described(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """A type in words; `metadata` are the constraints that stand beside it."""
    for mark in metadata:
        if isinstance(mark, Written):
            return mark.text
        if isinstance(mark, OrAuto) and get_origin(mark.inner) is Literal:
            return _one_of([f"`{value}`" for value in (*get_args(mark.inner), AUTO.value)])
        if isinstance(mark, OrAuto):
            return f"{_described(mark.inner)}, or `auto`"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        constraints = [part for mark in arguments[1:] for part in getattr(mark, "metadata", [mark])]
        return _described(arguments[0], tuple(constraints))
    if origin is Literal:
        return _one_of([f"`{value}`" for value in arguments])
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in arguments if kind not in (type(None), Auto)]
        return _one_of([_described(kind) for kind in kinds])
    if origin is list:
        return f"list of {_described(arguments[0])}"
    if origin is dict:
        return f"{_described(arguments[0])} to {_described(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "keys, see below"
    return PLAIN[annotation] + _limits(metadata)


def _limits(metadata: tuple[Any, ...]) -> str:
    """` of 1 to 64`, from the constraints of a number."""
    least = next((m.ge for m in metadata if hasattr(m, "ge")), None)
    above = next((m.gt for m in metadata if hasattr(m, "gt")), None)
    most = next((m.le for m in metadata if hasattr(m, "le")), None)
    below = f" to {most:,}" if most is not None else " or more"
    if least is not None:
        return f" of {least}{below}"
    return (
        f" above {above}" + (f", up to {most}" if most is not None else "")
        if above is not None
        else ""
    )


def _one_of(choices: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))


def _renamed(schema: type[FileSchema]) -> list[str]:
    """A section on old keys, where the schema has any."""
    if not schema.RENAMED:
        return []
    rows = []
    for old, renamed in schema.RENAMED.items():
        values = ", ".join(f"`{a}` is `{str(b).lower()}`" for a, b in renamed.values.items())
        rows.append(f"| `{old}` | `{renamed.key}` | {values} |")
    head = "| old key | new key | values |\n|---|---|---|"
    note = "These are accepted, with a warning, by this version only."
    return ["\n".join(["## Old keys\n", f"{note}\n", head, *rows])]


def main() -> None:
    """Write the pages into a folder."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    for name, page in PAGES.items():
        (folder / name).write_text(str(page), encoding="utf-8")


if __name__ == "__main__":
    main()
