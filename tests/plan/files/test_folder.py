"""plan.yaml is written from a Plan, and read back as the same Plan or refused with a remedy."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipecut.errors import PlanError
from pipecut.plan import safe_files
from pipecut.plan.folder import (
    GRAPH,
    MANIFEST,
    PARAMETERS,
    SCHEDULE,
    checked_bytes,
    file_hash,
    listed_files,
    plan_in,
    read_plan,
    seal,
    seal_of,
    write_plan,
    write_seal,
)
from pipecut.plan.manifest import HeldPerStage, read_manifest
from pipecut.plan.schema import VERSION, Evaluation, EvaluationStage, StageTensor
from tests.plans import made_plan, made_stage, made_tensor, write_made_plan


def written(folder: Path) -> dict[str, Any]:
    """What plan.yaml says."""
    return dict(yaml.safe_load((folder / MANIFEST).read_text()))


def test_plan_yaml_has_what_was_set_and_its_seal(tmp_path: Path) -> None:
    plan = made_plan(2)
    seal = write_plan(tmp_path, plan)
    data = written(tmp_path)
    assert data.pop("seal") == seal
    held = {"parameters", "buffers"}
    assert data.pop("hashes") == {PARAMETERS: file_hash(tmp_path / PARAMETERS)}
    assert data == plan.model_dump(exclude_defaults=True, exclude={"stages": {"__all__": held}})
    # A default says nothing.
    assert "evaluation" not in data and "order" not in data["inputs"][0]
    # Lists of parameters would hide what people look for.
    assert data["stages"][0]["parameter_count"] == 16 and not held & set(data["stages"][0])


def test_the_seal_changes_with_any_value(tmp_path: Path) -> None:
    plan = made_plan(2)
    faster = plan.model_copy(
        update={"prediction": plan.prediction.model_copy(update={"step_seconds": 1.0})}
    )
    assert write_plan(tmp_path, plan) != write_plan(tmp_path, faster)
    assert write_plan(tmp_path, plan) == write_plan(tmp_path, plan)


@pytest.mark.parametrize("version", [5, 6, 99])
def test_a_plan_of_another_version_is_refused_with_the_remedy(tmp_path: Path, version: int) -> None:
    write_plan(tmp_path, made_plan(1, version=version))
    message = f"plan version {version}, this pipecut reads version 8; compile again"
    with pytest.raises(PlanError, match=message):
        read_plan(tmp_path)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    folder = read_plan(write_made_plan(tmp_path))
    assert plan_in(tmp_path) == folder.plan
    assert folder.path == tmp_path and folder.plan.stages == [made_stage()]
    assert [list(map(str, row)) for row in folder.actions] == [["F 0.0", "B 0.0"]]
    assert folder.graph.operators[0].name == "hidden_0"
    # Read and written again it has the same seal, so that nothing was lost on the way.
    assert write_plan(tmp_path, folder.plan) == folder.plan.seal


def test_the_first_screen_has_what_is_proven_the_stages_and_the_boundaries(tmp_path: Path) -> None:
    write_plan(tmp_path, made_plan(3))
    screen = "\n".join((tmp_path / MANIFEST).read_text().splitlines()[:50])
    for said in ("certificate: {objective: 3.0", "prediction: {step_seconds", "- {index: 2,"):
        assert said in screen
    for said in ("memory_bytes: 1000", "capacity_bytes: 10000", "- {left: 1,"):
        assert said in screen


def test_a_plan_of_32_large_stages_is_short(tmp_path: Path) -> None:
    held = [
        StageTensor(names=[f"layers.{number}.weight"], shape=[4], dtype="bfloat16", trainable=True)
        for number in range(100)
    ]
    fields = {"parameters": held, "reduce_seconds": 0.19805882047999998, "recompute": True}
    stages = [made_stage(index, 32, **fields) for index in range(32)]
    write_plan(tmp_path, made_plan(32, stages=stages))
    assert len((tmp_path / MANIFEST).read_text().splitlines()) < 500
    assert len((tmp_path / PARAMETERS).read_text().splitlines()) > 3200


NASTY = [
    "a: b",
    "{x, y}",
    "# no comment",
    "it's",
    "\u2028\x85",
    "  far " * 60,
    "a\n\n  b\n",
    "",
    "é",
]


def test_any_name_is_read_as_it_was_written(tmp_path: Path) -> None:
    fields = {"modules": NASTY, "outputs": [made_tensor(name) for name in NASTY]}
    tensors = [StageTensor(names=NASTY, shape=[1], dtype="bool", persistent=False)]
    evaluation = Evaluation(
        refused=NASTY[6],
        left_out={name: name for name in NASTY},
        stages=[EvaluationStage(operators=1, receives=NASTY, batch_inputs=[], sends=[])],
    )
    model = made_plan(1).model.model_copy(update={"args": {"names": NASTY, "deep": [[{"a": 1}]]}})
    stages = [made_stage(0, 1, buffers=tensors, **fields)]
    plan = made_plan(1, stages=stages, notes=NASTY, evaluation=evaluation, model=model)
    new_seal = write_plan(tmp_path, plan)
    data = read_manifest(tmp_path)
    assert seal_of(data) == new_seal == data["seal"]
    held = HeldPerStage.validate_json((tmp_path / PARAMETERS).read_bytes())["stages"]
    assert data["stages"][0]["modules"] == NASTY and data["notes"] == NASTY
    assert held[0].buffers == tensors and held[0].parameters == stages[0].parameters


PARAMETERS_THAT_DO_NOT_FIT = {
    "no JSON": ("{", "parameters.json: not valid JSON"),
    "no stages": ("{}", "parameters.json: has no 'stages'"),
    "another number": ('{"stages": []}', "has 0 stages where plan.yaml has 1"),
    "an unknown dtype": (
        '{"stages": [{"parameters": [{"names": ["a"], "shape": [1], "dtype": "z"}], "buffers": []}]'
        "}",
        r"parameters.json: stages.0.parameters.0.dtype: .*unknown dtype 'z'",
    ),
    "no name": (
        '{"stages": [{"buffers": [{"names": [], "shape": [], "dtype": "bool"}], "parameters": []}]'
        "}",
        "a parameter or buffer has no name",
    ),
}


@pytest.mark.parametrize("what", sorted(PARAMETERS_THAT_DO_NOT_FIT))
def test_parameters_that_do_not_fit_are_refused(what: str, tmp_path: Path) -> None:
    text, message = PARAMETERS_THAT_DO_NOT_FIT[what]
    (write_made_plan(tmp_path) / PARAMETERS).write_text(text)
    with pytest.raises(PlanError, match=message):
        seal(tmp_path)


def test_parameters_in_both_files_are_refused(tmp_path: Path) -> None:
    data = written(write_made_plan(tmp_path))
    data["stages"][0]["buffers"] = []
    (tmp_path / MANIFEST).write_text(yaml.safe_dump(data))
    with pytest.raises(PlanError, match="plan.yaml: has 'buffers' of a stage, which parameters"):
        seal(tmp_path)


NO_PLANS = {
    "missing": (None, "it has no plan.yaml; make one with pipecut compile"),
    "a list": ("[1]", "not a plan: it has no version"),
    "without version": ("stages: []", "not a plan: it has no version"),
    "broken": ("version: [", "plan.yaml: not valid YAML: .*; compile the plan again"),
    "no text": ("\x00", "not valid YAML"),
    "keys that are no words": ("version: 8\n1: 2\n", "its keys are no words"),
    "aliases": ("version: 8\na: &a [1]\nb: *a\n", "has aliases"),
    "edited": ("version: 8\nseal: none\n", "edited after .*pipecut seal makes it a plan again"),
}


@pytest.mark.parametrize("name", sorted(NO_PLANS))
def test_what_is_no_plan_is_refused(name: str, tmp_path: Path) -> None:
    text, message = NO_PLANS[name]
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(PlanError, match=message):
        read_plan(tmp_path)


def test_an_unknown_key_and_a_missing_one_are_named(tmp_path: Path) -> None:
    data = {"version": VERSION, "stages": [], "surprise": 1}
    (tmp_path / MANIFEST).write_text(yaml.safe_dump({**data, "seal": seal_of(data)}))
    (tmp_path / PARAMETERS).write_text('{"stages": []}')
    with pytest.raises(PlanError, match=r"plan.yaml: pipecut: Field required; compile again"):
        read_plan(tmp_path)


@pytest.mark.parametrize("file", ["stages/stage_0.py", SCHEDULE, GRAPH])
def test_an_edited_file_is_refused_until_it_is_sealed(file: str, tmp_path: Path) -> None:
    path = write_made_plan(tmp_path) / file
    path.write_text(path.read_text() + "\n")
    for read in (read_plan, plan_in):
        with pytest.raises(PlanError, match=f"{file} was edited .*pipecut seal"):
            read(tmp_path)
    seal_before = seal(tmp_path).plan.seal
    assert write_seal(seal(tmp_path)) != seal_before
    assert read_plan(tmp_path).plan.hashes[file] == file_hash(path)


def test_edited_parameters_are_refused_until_they_are_sealed(tmp_path: Path) -> None:
    path = write_made_plan(tmp_path) / PARAMETERS
    seal_before = read_plan(tmp_path).plan.seal
    path.write_text(path.read_text().replace("[4, 4]", "[4, 5]"))
    with pytest.raises(
        PlanError, match=r"parameters.json was edited .*put it back as it was, or compile again"
    ):
        read_plan(tmp_path)
    assert write_seal(seal(tmp_path)) != seal_before
    assert read_plan(tmp_path).plan.stages[0].parameters[0].shape == [4, 5]


@pytest.mark.parametrize("file", ["stages/stage_0.py", SCHEDULE, GRAPH, PARAMETERS])
def test_a_missing_file_is_named(file: str, tmp_path: Path) -> None:
    (write_made_plan(tmp_path) / file).unlink()
    with pytest.raises(PlanError, match=f"{file} is missing from the plan"):
        read_plan(tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../elsewhere"])
def test_a_file_outside_the_folder_is_not_read(name: str, tmp_path: Path) -> None:
    folder = write_made_plan(tmp_path)
    hashes = read_plan(folder).plan.hashes | {name: ""}
    write_plan(folder, made_plan(1, hashes=hashes))
    with pytest.raises(PlanError, match="is missing from the plan"):
        read_plan(folder)


@pytest.mark.parametrize("text", ["ranks: 1", "[]", "rows: []", "ranks: [[1]]"])
def test_a_schedule_without_rows_of_actions_is_refused(text: str, tmp_path: Path) -> None:
    write_made_plan(tmp_path, schedule=text)
    with pytest.raises(PlanError, match="schedule.yaml: no list of actions for each rank"):
        read_plan(tmp_path)


def test_a_file_larger_than_any_plans_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_made_plan(tmp_path)
    monkeypatch.setattr(safe_files, "MOST_BYTES", 10)
    with pytest.raises(PlanError, match="plan.yaml: larger than"):
        read_plan(folder)


def test_bytes_that_run_have_the_manifests_hash(tmp_path: Path) -> None:
    plan = read_plan(write_made_plan(tmp_path)).plan
    assert checked_bytes(tmp_path, plan, "stages/stage_0.py") == b"class Stage0: ...\n"
    (tmp_path / "stages" / "stage_0.py").write_text("raise SystemExit")
    with pytest.raises(PlanError, match="stage_0.py was edited"):
        checked_bytes(tmp_path, plan, "stages/stage_0.py")


def test_files_of_a_plan_of_any_version_are_listed_but_for_those_elsewhere(tmp_path: Path) -> None:
    write_plan(tmp_path, made_plan(1, version=4, hashes={"a": "", "/b": "", "../c": ""}))
    assert listed_files(tmp_path) == ["a", PARAMETERS]
