"""Weights of other models, shapes, types and runs are refused; those of several files are read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipecut.errors import RunError
from pipecut.model.weights import read_weights, stored_values, weight_files, weights_digest
from pipecut.plan.schema import Plan, StageTensor
from tests.plans import made_plan, made_stage

VALUES = {f"layers.{n}.weight": torch.full((4, 4), float(n)) for n in range(2)}


def saved(folder: Path, changes: dict[str, Any] | None = None, name: str = "w") -> Path:
    """A file with the weights of `made_plan`, but for some of them."""
    values = {n: t for n, t in (VALUES | (changes or {})).items() if t is not None}
    save_file(values, str(folder / f"{name}.safetensors"))
    return folder / f"{name}.safetensors"


def refusal(path: Path, plan: Plan | None = None) -> str:
    with pytest.raises(RunError) as raised:
        read_weights(path, plan or made_plan(2))
    return str(raised.value)


def test_every_name_gets_its_value(tmp_path: Path) -> None:
    values = read_weights(saved(tmp_path), made_plan(2))
    assert all(torch.equal(values[name], VALUES[name]) for name in VALUES)


def test_a_stage_reads_its_own_alone(tmp_path: Path) -> None:
    plan = made_plan(2)
    ((tensor, value),) = stored_values(saved(tmp_path), plan, plan.stages[1:])
    assert tensor.names == ["layers.1.weight"] and torch.equal(value, VALUES["layers.1.weight"])


def test_a_tied_value_may_have_any_of_its_names(tmp_path: Path) -> None:
    tied = StageTensor(names=["a", "b"], shape=[4, 4], dtype="float32", trainable=True)
    plan = made_plan(1, stages=[made_stage(parameters=[tied])])
    save_file({"b": torch.ones(4, 4)}, str(tmp_path / "w.safetensors"))
    assert set(read_weights(tmp_path, plan)) == {"a", "b"}


def test_a_buffer_may_be_missing(tmp_path: Path) -> None:
    seen = StageTensor(names=["seen"], shape=[1], dtype="float32", trainable=False)
    plan = made_plan(1, stages=[made_stage(buffers=[seen])])
    save_file({"layers.0.weight": torch.ones(4, 4)}, str(tmp_path / "w.safetensors"))
    assert set(read_weights(tmp_path, plan)) == {"layers.0.weight"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layers.0.weight": None},
            "has no 'layers.0.weight' (1 parameter missing); give the weights of",
        ),
        ({"extra": torch.ones(1)}, "has tensors that the model has not: extra; give the weights"),
        ({f"e{n}": torch.ones(1) for n in range(5)}, "e0, e1, e2 and 2 more"),
        ({"layers.0.weight": torch.ones(4, 3)}, "is [4, 3], the plan has [4, 4]; compile again"),
        ({"layers.0.weight": torch.ones(4, 4).int()}, "is int32, the plan has float32; quantised"),
        ({"layers.0.weight": torch.ones(4, 4).double()}, "is float64, the plan has float32; give"),
        ({"layers.0.weight": torch.full((4, 4), torch.nan)}, "values that are no numbers (NaN)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert message in refusal(saved(tmp_path, changes))


def test_narrower_floats_are_taken_and_half_is_rounded(tmp_path: Path) -> None:
    narrow = {name: tensor.bfloat16() for name, tensor in VALUES.items()}
    assert len(read_weights(saved(tmp_path, narrow), made_plan(2))) == 2
    half = StageTensor(names=["layers.0.weight"], shape=[4, 4], dtype="bfloat16", trainable=True)
    plan = made_plan(1, stages=[made_stage(parameters=[half])])
    assert len(read_weights(saved(tmp_path, {"layers.1.weight": None}), plan)) == 1


def test_files_of_ranks_and_an_index_are_one_set_of_weights(tmp_path: Path) -> None:
    saved(tmp_path, {"layers.1.weight": None}, "rank0")
    saved(tmp_path, {"layers.0.weight": None}, "rank1")
    assert set(weight_files(tmp_path)) == set(VALUES)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"layers.0.weight": "rank0.safetensors"}}))
    assert set(weight_files(index)) == {"layers.0.weight"}


def test_an_index_may_have_names_of_its_own(tmp_path: Path) -> None:
    """As of weights that transformers stores under old names; others of the file are left out."""
    saved(tmp_path, name="old")
    index = tmp_path / "new.index.json"
    maps = {"weight_map": {"new": "old.safetensors"}, "stored_names": {"new": "layers.1.weight"}}
    index.write_text(json.dumps(maps))
    first = weights_digest(index)
    assert torch.equal(weight_files(index)["new"].value(), VALUES["layers.1.weight"])
    maps["stored_names"]["new"] = "layers.0.weight"
    index.write_text(json.dumps(maps))
    assert set(weight_files(index)) == {"new"} and weights_digest(index) != first
    maps["stored_names"]["new"] = "absent"
    index.write_text(json.dumps(maps))
    with pytest.raises(RunError, match="names 'absent', which none of its files has; fix weights:"):
        weight_files(index)


def test_an_index_may_leave_parameters_to_the_factory(tmp_path: Path) -> None:
    saved(tmp_path, {"layers.1.weight": None}, "base")
    index, plan = tmp_path / "base.index.json", made_plan(2)
    maps = {"weight_map": {"layers.0.weight": "base.safetensors"}}
    index.write_text(json.dumps(maps))
    assert "has no 'layers.1.weight'" in refusal(index)
    index.write_text(json.dumps({**maps, "drawn": ["layers.1.weight"]}))
    assert set(read_weights(index, plan)) == {"layers.0.weight"}
    index.write_text(json.dumps({**maps, "drawn": ["layers.1.weights"]}))
    assert "drawn names 'layers.1.weights', which is no parameter" in refusal(index)


def test_two_values_of_one_name_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, name="a")
    saved(tmp_path, {"layers.0.weight": torch.ones(4, 4)}, "b")
    with pytest.raises(RunError, match="two values of layers.0.weight, in a.safetensors and b"):
        weight_files(tmp_path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no safetensors file at .*; fix weights: in the job file"):
        weight_files(tmp_path)
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    with pytest.raises(
        RunError, match=r"w.safetensors cannot be read as safetensors: .*; give a file of"
    ):
        weight_files(tmp_path)
    (tmp_path / "x.index.json").write_text("[]")
    with pytest.raises(RunError, match="is no index of safetensors files; fix weights:"):
        weight_files(tmp_path / "x.index.json")


def test_a_digest_tells_runs_apart(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    first = weights_digest(saved(tmp_path / "a"))
    assert weights_digest(saved(tmp_path / "b")) == first
    changed = {"layers.0.weight": torch.randn(4, 4)}
    assert weights_digest(saved(tmp_path / "c", changed)) != first
