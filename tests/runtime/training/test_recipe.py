"""A training as the job says: its optimizer, learning rate, clipping and evaluations, resumed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import CheckpointError, UserFileError
from pipecut.plan.part.read import PlanPart, read_part
from pipecut.plan.schema import KINDS, EvalData, Evaluation, LrSchedule, Optimizer
from pipecut.runtime.checkpoint.manifest import read_manifest
from pipecut.runtime.pipeline import Pipeline
from pipecut.runtime.ranks.world import join_world
from pipecut.runtime.training.training import Training, TrainingOptions
from tests.conftest import SLOW_CORES

JOB = """
model: {factory: "tests.models.core:mlp", args: {depth: 3}}
inputs: "tests.models.core:vectors"
batch: {global: 8, microbatch: 2}
optimizer: {name: adamw, lr: 0.01, weight_decay: 0.1, no_decay: ["*.bias"]}
lr_schedule: {warmup: 2, decay: cosine, steps: 6, minimum: 1e-3}
clip: 0.1
eval: {data: "tests.models.checkpoint:shuffled", every: 2}
"""

MATRICES = """
model: {factory: "tests.models.adapters.lora:build"}
inputs: "tests.models.adapters.lora:inputs"
batch: {global: 8, microbatch: 2}
optimizer: {name: muon, lr: 0.05, momentum: 0.9}
"""


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> PlanPart:
    """A plan of one rank."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "cores.yaml").write_text(SLOW_CORES)
    (folder / "job.yaml").write_text(JOB)
    one_stage = Options(SizeOverrides(stages=1))
    compile(folder / "job.yaml", str(folder / "cores.yaml"), folder / "plan", one_stage)
    return read_part(folder / "plan", 0)


def pipeline(part: PlanPart, **changed: Any) -> Pipeline:
    plan = part.plan.model_copy(update=changed)
    return Pipeline(replace(part, plan=plan), join_world(plan, "cpu"))


def train(part: PlanPart, where: Path, steps: int, **wishes: Any) -> Training:
    """Train in this process, with a checkpoint every three steps."""
    changed = wishes.pop("changed", {})
    data = wishes.pop("data", "tests.models.checkpoint:shuffled")
    usual = {"rate": None, "clip": None, "checkpoint_every": 3, "keep": 3, "resume": False}
    options = TrainingOptions(steps, folder=where, **{**usual, **wishes})
    training = Training(pipeline(part, **changed), options)
    training.run(data, part.path)
    return training


def values(training: Training) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in training.pipe.named_parameters()}


def test_a_plan_says_how_it_trains(part: PlanPart) -> None:
    plan = part.plan
    assert (plan.clip, plan.optimizer.no_decay) == (0.1, ["*.bias"])
    assert plan.lr_schedule is not None and plan.lr_schedule.minimum == 1e-3
    assert str(plan.optimizer) == "adamw (lr=0.01, weight_decay=0.1)"
    decaying, others = pipeline(part).optimizer().optimizer.param_groups
    assert len(decaying["params"]) == len(others["params"]) > 0


def test_six_steps_are_three_and_three_more(
    part: PlanPart, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(part, tmp_path / "whole", 6, log=tmp_path / "log")
    evaluated = [line for line in capsys.readouterr().out.splitlines() if "eval loss" in line]
    assert [line.split()[1] for line in evaluated] == ["2/6", "4/6", "6/6"]
    # The fourth step was not saved.
    train(part, tmp_path / "parts", 4, log=tmp_path / "parts.log")
    capsys.readouterr()
    resumed = train(part, tmp_path / "parts", 6, resume=True, log=tmp_path / "parts.log")
    out = capsys.readouterr().out
    # At step 3 of 6, after two steps of warm-up.
    assert "with a learning rate of 0.0086819" in out and "clipped to 0.1" in out
    assert [line for line in out.splitlines() if "eval loss" in line] == evaluated[1:]
    assert whole.progress.last_loss == resumed.progress.last_loss
    for name, value in values(whole).items():
        assert torch.equal(value, values(resumed)[name])
    lines = logged(tmp_path / "log")
    assert logged(tmp_path / "parts.log") == lines
    assert [line["step"] for line in lines] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert lines[0]["lr"] == 0.005 and lines[0]["grad_norm"] > 0.1
    assert lines[0]["memory_peak_bytes"] > 1 << 20 and "eval_loss" in lines[2]


def logged(folder: Path) -> list[dict[str, Any]]:
    """The lines of a log, the same but for what is measured."""
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    for line in lines:
        for measured in ("seconds", "samples_per_second", "memory_peak_bytes"):
            if measured in line:
                line[measured] = 1 << 30 if line[measured] > 0 else 0
    return lines


def test_each_part_of_the_recipe_changes_the_training(part: PlanPart, tmp_path: Path) -> None:
    """So that the test above compares trainings that use them all."""
    usual = values(train(part, tmp_path, 3, checkpoint_every=0))
    for changed in (
        {"optimizer": Optimizer(name="adamw", arguments={"lr": 0.01, "weight_decay": 0.1})},
        {"optimizer": Optimizer(name="nadam", arguments={"lr": 0.01})},
        {"lr_schedule": LrSchedule(warmup=1)},
        {"clip": 0.0},
    ):
        other = values(train(part, tmp_path, 3, checkpoint_every=0, changed=changed))
        assert any(not torch.equal(usual[name], other[name]) for name in usual), changed
    no_eval = values(train(part, tmp_path, 3, checkpoint_every=0, changed={"eval": None}))
    assert all(torch.equal(usual[name], no_eval[name]) for name in usual)


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"adamw", "muon"}))
def test_every_optimizer_goes_on_exactly(part: PlanPart, tmp_path: Path, name: str) -> None:
    goes_on_exactly(part, tmp_path, {"optimizer": Optimizer(name=name), "eval": None})


def test_muon_goes_on_exactly(tmp_path: Path, slow_cores: str) -> None:
    """It steps matrices only: here those of adapters, beside frozen layers."""
    (tmp_path / "job.yaml").write_text(MATRICES)
    one_stage = Options(SizeOverrides(stages=1))
    compile(tmp_path / "job.yaml", slow_cores, tmp_path / "plan", one_stage)
    part, data = read_part(tmp_path / "plan", 0), "tests.models.adapters.lora:batches"
    goes_on_exactly(part, tmp_path, {}, data=data)
    whole = tmp_path / "whole" / "step_00000003"
    states = {name for name in read_manifest(whole).names if name.startswith("optimizer/")}
    assert {name.split("/")[1] for name in states} == {"momentum_buffer"} and len(states) == 6


def goes_on_exactly(part: PlanPart, folder: Path, changed: dict[str, Any], **wishes: Any) -> None:
    whole = values(train(part, folder / "whole", 5, changed=changed, **wishes))
    train(part, folder / "parts", 3, changed=changed, **wishes)
    resumed = values(train(part, folder / "parts", 5, resume=True, changed=changed, **wishes))
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_options_win_over_the_job_and_say_so(
    part: PlanPart, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(part, tmp_path, 3, rate=0.02, clip=0.0)
    out = capsys.readouterr().out
    assert "--lr 0.02 in place of the job's 0.01" in out
    assert "--clip 0 in place of the job's 0.1" in out
    train(part, tmp_path, 4, resume=True, rate=0.005)
    out = capsys.readouterr().out
    assert "learning rate of 0.0044" in out and "as given, not 0.0172" in out


def test_a_schedule_that_is_added_begins_at_its_step(
    part: PlanPart, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(part, tmp_path, 3, changed={"lr_schedule": None})
    resumed = train(part, tmp_path, 6, resume=True)
    assert "lr_schedule is {'warmup': 2" in caplog.text and "it was not given" in caplog.text
    state = read_manifest(tmp_path / "step_00000006").training.scheduler
    assert state["last_epoch"] == 6 and state["base_lrs"] == [0.01, 0.01]
    assert resumed.done == 6


def test_other_patterns_than_those_of_the_checkpoint_are_refused(
    part: PlanPart, tmp_path: Path
) -> None:
    train(part, tmp_path, 3)
    arguments = part.plan.optimizer.arguments
    other = Optimizer(name="adamw", arguments=arguments, no_decay=["*.weight"])
    with pytest.raises(CheckpointError, match="is in group .* of the optimizer, in the checkpoint"):
        train(part, tmp_path, 6, resume=True, changed={"optimizer": other})


def test_a_model_without_a_loss_in_eval_mode_is_refused_before_the_first_step(
    part: PlanPart, tmp_path: Path
) -> None:
    for evaluation in (Evaluation(loss=False), Evaluation(refused="it only trains")):
        with pytest.raises(UserFileError, match="eval: cannot be"):
            train(part, tmp_path, 3, changed={"evaluation": evaluation})


def test_a_loop_of_ones_own_is_that_of_run(part: PlanPart, tmp_path: Path) -> None:
    from tests.models.checkpoint import shuffled

    trained = values(train(part, tmp_path, 3, changed={"eval": None}))
    pipe = pipeline(part)
    optimizer = pipe.optimizer()
    source = iter(shuffled())
    for _ in range(3):
        pipe.step(**next(source))
        norm = optimizer.step()
        assert norm is not None and norm > 0
    for name, parameter in pipe.named_parameters():
        assert torch.equal(parameter, trained[name])
    pipe.save(tmp_path / "own", optimizer, step=3)
    other = pipeline(part, eval=EvalData(data="a:b", every=1))
    resumed = other.optimizer()
    assert other.restore(tmp_path / "own", resumed) == 3
    assert resumed.rate == optimizer.rate != 0.01
