"""A rank's model and its checkpoints as wholes, from a plan of one stage written by hand."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipecut.errors import CheckpointError, OtherTrainingError, RunError
from pipecut.plan.folder import file_hash, read_plan, write_plan
from pipecut.plan.part.read import read_part
from pipecut.plan.schema import Stage, StageTensor
from pipecut.runtime.checkpoint.export import export
from pipecut.runtime.checkpoint.folder import checkpoints, step_of
from pipecut.runtime.checkpoint.manifest import read_manifest
from pipecut.runtime.checkpoint.restoring import RestoreRequest, restore
from pipecut.runtime.checkpoint.resume import refuse_trained
from pipecut.runtime.checkpoint.saving import SaveRequest, Saving
from pipecut.runtime.gradients.loss_scale import LossScale
from pipecut.runtime.health.status import Status
from pipecut.runtime.rank_model import RankModel
from pipecut.runtime.ranks.world import World
from tests.checkpoints import about
from tests.plans import made_plan, made_stage, write_made_plan

CODE = """
import torch
from torch import nn


class Stage0(nn.Module):
    def __init__(self, device=None):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False, device=device)])
        self.register_buffer("seen", torch.zeros((), device=device))

    def forward(self, x, outputs=None):
        self.seen.add_(1)
        return [torch.tanh(self.layers[0](x)).square().mean()]
"""
WEIGHT = torch.arange(16.0).reshape(4, 4) / 16
BASE = StageTensor(names=["base"], shape=[4, 4], dtype="float32")
SEEN = StageTensor(names=["seen"], shape=[], dtype="float32", written=True)


@dataclass
class Rank:
    """A rank's model with an optimizer, and what writes its checkpoints."""

    model: RankModel
    optimizer: torch.optim.SGD
    saving: Saving

    @property
    def weight(self) -> torch.Tensor:
        """The stage's weight."""
        value: torch.Tensor = self.model.state_dict()["layers.0.weight"]
        return value

    def train(self) -> None:
        """One step on ones."""
        (loss,) = self.model.modules[0](torch.ones(2, 4))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.refresh()

    def save(self, folder: Path, step: int, **fields: Any) -> Path:
        """Save, and wait until it is written."""
        usual = {"optimizer": self.optimizer, "scheduler": None, "data": None, "keep": 3}
        usual |= {"trained_only": False}
        return self.saving.save(SaveRequest(folder, step, wait=True, **usual | fields))

    def restore(self, folder: Path) -> int:
        """Go on from the last checkpoint; the step that it was written after."""
        request = RestoreRequest(folder, self.optimizer, None, None, {"kind": "sgd"})
        return restore(self.model, LossScale("fp32"), request).step


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plan folder of one stage, whose values are those of a file."""
    values = {"layers.0.weight": WEIGHT, "seen": torch.zeros(())}
    return plan_of(tmp_path, CODE, values, made_stage(buffers=[SEEN]))


@pytest.fixture
def partly_frozen(tmp_path: Path) -> Path:
    """A plan folder of one stage that trains one of its two parameters."""
    code = CODE.replace("self.layers[0](x)", "self.layers[0](x) @ self.base").replace(
        "self.register_buffer(",
        "self.base = nn.Parameter(torch.zeros(4, 4, device=device), requires_grad=False)\n"
        "        self.register_buffer(",
    )
    values = {"layers.0.weight": WEIGHT, "seen": torch.zeros(()), "base": WEIGHT.T + 1}
    trained = made_stage(buffers=[SEEN])
    return plan_of(
        tmp_path,
        code,
        values,
        trained.model_copy(update={"parameters": [*trained.parameters, BASE]}),
    )


def plan_of(folder: Path, code: str, values: dict[str, torch.Tensor], stage: Stage) -> Path:
    (folder / "plan").mkdir()
    path = write_made_plan(folder / "plan")
    weights = folder / "model.safetensors"
    save_file({name: value.contiguous() for name, value in values.items()}, str(weights))
    plan = read_plan(path).plan
    (path / stage.file).write_text(code)
    changes = {
        "stages": [stage],
        "hashes": {name: file_hash(path / name) for name in plan.hashes},
        "model": plan.model.model_copy(update={"weights": str(weights)}),
    }
    write_plan(path, plan.model_copy(update=changes))
    return path


def made_rank(folder: Path, restoring: bool = False) -> Rank:
    part = read_part(folder, 0)
    world = World(0, part.plan.layout, torch.device("cpu"), Status(0))
    model = RankModel(part, world, restoring)
    optimizer = torch.optim.SGD([p for _, p in model.named_parameters()], lr=0.5, momentum=0.9)
    saving = Saving(model, LossScale("fp32"))
    saving.recipe = {"kind": "sgd"}
    return Rank(model, optimizer, saving)


def test_a_rank_begins_with_the_values_of_the_file(folder: Path) -> None:
    rank = made_rank(folder)
    assert torch.equal(rank.weight, WEIGHT)
    assert [name for name, _ in rank.model.named_parameters()] == ["layers.0.weight"]
    assert list(rank.model.stored_buffers) == ["seen"]
    # What was run to warm up is forgotten.
    assert rank.model.buffers["seen"] == 0


def test_values_are_taken_and_must_fit(folder: Path) -> None:
    rank = made_rank(folder)
    rank.model.load_state_dict({"layers.0.weight": WEIGHT + 1, "seen": torch.tensor(3.0)})
    assert torch.equal(rank.weight, WEIGHT + 1) and rank.model.buffers["seen"] == 3
    with pytest.raises(RunError, match=r"rank 0.*layers.0.weight"):
        rank.model.load_state_dict({"layers.0.weight": WEIGHT[:2], "seen": torch.tensor(3.0)})
    with pytest.raises(RunError, match="rank 0.*seen"):
        rank.model.load_state_dict({"layers.0.weight": WEIGHT})


def test_a_rank_that_restores_has_no_values_until_then(folder: Path, tmp_path: Path) -> None:
    rank = made_rank(folder)
    rank.save(tmp_path / "checkpoints", 0)
    restoring = made_rank(folder, restoring=True)
    with pytest.raises(RunError, match="layers.0.weight has no value yet, .* restore a checkpoint"):
        restoring.model.refresh()
    assert restoring.restore(tmp_path / "checkpoints") == 0
    assert torch.equal(restoring.weight, WEIGHT)


def test_a_training_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(
    folder: Path, tmp_path: Path
) -> None:
    home = tmp_path / "checkpoints"
    rank = made_rank(folder)
    rank.train()
    assert rank.save(home, 1) == home / "step_00000001"
    rank.train()
    rank.train()

    resumed = made_rank(folder)
    assert resumed.restore(home) == 1
    assert resumed.model.buffers["seen"] == 1
    resumed.train()
    # Momentum was saved, too: without it the second step would be another.
    resumed.train()
    assert torch.equal(resumed.weight, rank.weight)
    assert resumed.model.buffers["seen"] == rank.model.buffers["seen"] == 3


def test_a_checkpoint_may_leave_out_what_is_frozen(partly_frozen: Path, tmp_path: Path) -> None:
    rank = made_rank(partly_frozen)
    rank.train()
    whole = read_manifest(rank.save(tmp_path / "whole", 1))
    manifest = read_manifest(rank.save(tmp_path / "trained", 1, trained_only=True))
    assert whole.names - manifest.names == {"parameter/base"} and set(manifest.frozen) == {"base"}
    rank.train()
    for restoring in (True, False):
        resumed = made_rank(partly_frozen, restoring)
        resumed.restore(tmp_path / "trained")
        resumed.model.values_missing = False
        resumed.train()
        assert torch.equal(resumed.weight, rank.weight)
        assert torch.equal(resumed.model.state_dict()["base"], WEIGHT.T + 1)
    plan = read_plan(partly_frozen).plan
    exported = export(plan, tmp_path / "trained", tmp_path / "trained.safetensors")
    assert exported.left_out == 1
    assert set(load_file(tmp_path / "trained.safetensors")) == {"layers.0.weight", "seen"}


def test_frozen_parameters_that_are_others_than_those_trained_with_are_refused(
    partly_frozen: Path, tmp_path: Path
) -> None:
    rank = made_rank(partly_frozen)
    rank.save(tmp_path / "first", 1, trained_only=True)
    rank.model.state_dict()["base"].add_(1)
    # Its digest is made anew, since the values changed.
    rank.save(tmp_path / "second", 2, trained_only=True)
    made_rank(partly_frozen, restoring=True).restore(tmp_path / "first")
    with pytest.raises(CheckpointError, match="the frozen base that .* gives is not the one"):
        made_rank(partly_frozen, restoring=True).restore(tmp_path / "second")


def test_a_plan_that_trains_what_a_checkpoint_leaves_out_is_refused() -> None:
    stage = made_stage(parameters=[BASE.model_copy(update={"trainable": True})])
    plan, manifest = made_plan(1).model_copy(update={"stages": [stage]}), about(1)
    refuse_trained("step_1", plan, manifest)
    with pytest.raises(OtherTrainingError, match="parameter base was frozen then, and this plan"):
        refuse_trained("step_1", plan, replace(manifest, frozen={"base": "digest"}))


def test_only_the_newest_checkpoints_are_kept(folder: Path, tmp_path: Path) -> None:
    rank = made_rank(folder)
    for step in range(4):
        rank.train()
        rank.save(tmp_path / "checkpoints", step, keep=2)
    kept = [step_of(path) for path in checkpoints(tmp_path / "checkpoints")]
    assert kept == [2, 3]


def test_what_cannot_be_saved_or_found_is_refused(folder: Path, tmp_path: Path) -> None:
    rank = made_rank(folder)
    with pytest.raises(CheckpointError, match="after step -1 cannot be; count steps from 0"):
        rank.save(tmp_path / "checkpoints", -1)
    with pytest.raises(CheckpointError, match="nowhere has no checkpoint; leave out --resume"):
        rank.restore(tmp_path / "nowhere")
