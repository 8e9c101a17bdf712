"""The manifest says what feeds what, and a broken one is refused."""

from pathlib import Path

import pytest

from pipecut.errors import PlanError
from pipecut.onnx.manifest import (
    MANIFEST,
    ExportedStage,
    Manifest,
    ModelOutput,
    Port,
    StageInput,
    read_manifest,
    write_manifest,
)

HIDDEN = {"name": "hidden", "dtype": "float32", "shape": ("batch", 4)}
STAGES = (
    ExportedStage(
        stage=0,
        file="stage_0.onnx",
        data=None,
        modules=("enter",),
        inputs=(StageInput(name="x", dtype="int64", shape=("batch",), stage=None, tensor="x"),),
        outputs=(Port(**HIDDEN),),
    ),
    ExportedStage(
        stage=1,
        file="stage_1.onnx",
        data="stage_1.onnx.data",
        modules=("leave",),
        inputs=(StageInput(**HIDDEN, stage=0, tensor="hidden"),),
        outputs=(Port(name="logits", dtype="float32", shape=("batch", 4)),),
    ),
)


def made_manifest() -> Manifest:
    return Manifest(
        pipecut="0",
        factory="models:build",
        weights="what models:build draws",
        batch="any",
        opset=20,
        inputs=(Port(name="x", dtype="int64", shape=("batch",)),),
        outputs=(
            ModelOutput(
                name="logits", dtype="float32", shape=("batch", 4), stage=1, tensor="logits"
            ),
        ),
        left_out={},
        without_file=(),
        stages=STAGES,
    )


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_manifest(tmp_path, made_manifest())
    assert read_manifest(tmp_path) == made_manifest()


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="has no manifest.json; make one with pipecut export-onnx"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("{", "Invalid JSON"), ('{"version": 2}', "version"), ("[]", "manifest.json: ")],
)
def test_a_broken_one_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(PlanError, match=problem):
        read_manifest(tmp_path)
