"""manifest.json: the files of an exported plan, and which tensor goes where.

Whoever runs the stages reads it from top to bottom: every input of a stage is a tensor of the batch
or one that an earlier stage made.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipecut.errors import PlanError
from pipecut.plan.schema.dimensions import Dimension

MANIFEST = "manifest.json"
# A list without lists and objects in it, as json.dumps indents it.
_PLAIN_LIST = re.compile(r'\[\n((?:\s*(?:"[^"\\]*"|[\w.+-]+),?\n)+)\s*\]')
_BREAK = re.compile(r"\n\s*")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Port(_Part):
    """A tensor by the name that it has in a file; dimensions are numbers or follow `batch`."""

    name: str
    dtype: str
    shape: tuple[Dimension, ...]


class StageInput(Port):
    """An input, which is `tensor` of the batch, or of stage `stage`."""

    stage: int | None
    tensor: str


class ModelOutput(Port):
    """What the model returns under `name`: `tensor` of stage `stage`."""

    stage: int
    tensor: str


class ExportedStage(_Part):
    """A stage's file, relative to the manifest; its weights lie in `data`, or in the file itself.

    `stage` is its number in the plan.
    """

    stage: int
    file: str
    data: str | None
    modules: tuple[str, ...]
    inputs: tuple[StageInput, ...]
    outputs: tuple[Port, ...]


class Manifest(_Part):
    """An exported plan.

    `batch` is `any`, or the one number of samples that the model takes. `weights` says where the
    values are from; with `none` the files under `data` are absent. `left_out` has, for what the
    model returns but the stages do not, the reason. Stages that compute nothing of the outputs
    have no file; they are `without_file`.
    """

    version: Literal[1] = 1
    pipecut: str
    factory: str
    weights: str
    batch: Literal["any"] | Annotated[int, Field(ge=1)]
    opset: int
    inputs: tuple[Port, ...]
    outputs: tuple[ModelOutput, ...]
    left_out: dict[str, str]
    without_file: tuple[int, ...]
    stages: tuple[ExportedStage, ...]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json, lists of plain values on one line."""
    text = json.dumps(manifest.model_dump(), indent=1)
    text = _PLAIN_LIST.sub(lambda match: f"[{_BREAK.sub(' ', match[1].strip())}]", text)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Raises PlanError where a folder has no manifest, or another version's."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError:
        raise PlanError(f"{folder} has no {MANIFEST}; make one with pipecut export-onnx") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise PlanError(f"{path}: {where}: {first['msg']}; export the plan again") from None
