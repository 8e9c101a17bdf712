"""What cannot be exported is refused with the place and a remedy."""

from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipecut import extras
from pipecut.errors import PlanError, RunError, UserFileError
from pipecut.onnx import compare
from pipecut.onnx.files import Destination
from pipecut.onnx.manifest import MANIFEST
from pipecut.onnx.refusals import refuse_training_only, why
from pipecut.onnx.values import Weights
from pipecut.plan.schema import Evaluation
from tests.plans import made_plan, made_stage


def test_missing_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "onnx" else util)
    with pytest.raises(UserFileError, match="needs onnx, which is not installed: pip install onnx"):
        extras.need(("onnx", "onnxscript"), "pipecut export-onnx")


def test_a_plan_that_only_trains_is_refused() -> None:
    plan = made_plan(evaluation=Evaluation(refused="eval mode asserts"))
    with pytest.raises(PlanError, match="only trains, and ONNX is for inference: eval mode"):
        refuse_training_only(plan)


def test_a_model_that_returns_nothing_in_eval_mode_is_refused() -> None:
    with pytest.raises(PlanError, match="have its forward return a tensor"):
        refuse_training_only(made_plan(evaluation=Evaluation(loss=False)))


def test_an_operator_without_onnx_is_named_with_its_stage() -> None:
    error = RuntimeError("at %x = call_function[target=torch.ops.aten.odd.default](args = ())")
    error.__cause__ = ValueError("No ONNX function found for <OpOverload(op='aten.odd')>. Tried")
    text = why(made_stage(1, 2), error)
    assert text.startswith("stage 1 (layers.1) cannot be written as ONNX: the operator aten.odd")
    assert "No ONNX function found; have the model" in text


def test_a_folder_with_other_files_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserFileError, match="the folder has other files"):
        Destination(tmp_path)


def test_an_earlier_export_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    for name in (MANIFEST, "stage_0.onnx", "stage_7.onnx", "mine.txt"):
        (tmp_path / name).write_text("earlier")
    with Destination(tmp_path) as scratch:
        (scratch / "stage_0.onnx").write_text("new")
        (scratch / MANIFEST).write_text("new")
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {MANIFEST: "new", "stage_0.onnx": "new", "mine.txt": "earlier"}


def test_an_export_that_fails_leaves_the_earlier_one(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("earlier")
    with pytest.raises(ZeroDivisionError), Destination(tmp_path) as scratch:
        (scratch / MANIFEST).write_text("new")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
    assert (tmp_path / MANIFEST).read_text() == "earlier"


@pytest.mark.parametrize("others", ((), ("mine.txt",)))
def test_an_export_that_is_stopped_leaves_no_folder_of_its_own(
    tmp_path: Path, others: tuple[str, ...]
) -> None:
    output = tmp_path / "onnx"
    with pytest.raises(KeyboardInterrupt), Destination(output) as scratch:
        (scratch / MANIFEST).write_text("new")
        for name in others:
            (output / name).write_text("put there meanwhile")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == (["onnx", *others] if others else [])


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    folder: Any = SimpleNamespace(plan=made_plan(), path=tmp_path)
    with pytest.raises(UserFileError, match="there is no such file or folder; give a checkpoint"):
        Weights(folder, str(tmp_path / "absent"))
    with pytest.raises(UserFileError, match="neither checkpoints nor safetensors; give one that"):
        Weights(folder, str(tmp_path))


def test_half_precision_and_no_weights_cannot_be_compared(tmp_path: Path) -> None:
    folder: Any = SimpleNamespace(plan=made_plan(), path=tmp_path)
    with pytest.raises(UserFileError, match="--verify needs values"):
        compare.refuse_incomparable(folder.plan, Weights(folder, "none"))
    stages = [made_stage(0, 1)]
    halves = [tensor.model_copy(update={"dtype": "bfloat16"}) for tensor in stages[0].parameters]
    plan = made_plan(1, stages=[stages[0].model_copy(update={"parameters": halves})])
    with pytest.raises(UserFileError, match="compile with precision: fp32 to compare"):
        compare.refuse_incomparable(plan, Weights(folder, None))


def test_differences_are_those_of_values_shapes_and_infinities() -> None:
    base = np.array([1.0, -100.0, -np.inf], dtype=np.float32)
    assert compare.difference("y", base, {"y": base}) == 0.0
    near = base + np.array([0.0, 1.0, 0.0], dtype=np.float32)
    assert compare.difference("y", near, {"y": base}) == pytest.approx(0.01)
    assert compare.difference("y", np.nan_to_num(base), {"y": base}) == np.inf
    ids = np.array([1, 2])
    assert compare.difference("y", ids + 1, {"y": ids}) == 1.0
    with pytest.raises(RunError, match="in onnxruntime, and float32"):
        compare.difference("y", base[:2], {"y": base})
    with pytest.raises(RunError, match="other outputs than the model, beyond 1e-05: y: 1.0e-02"):
        compare.refuse_different([compare.Difference("y", 0.01, 4)])
    with pytest.raises(RunError):
        compare.refuse_different([compare.Difference("y", float("nan"), 4)])
