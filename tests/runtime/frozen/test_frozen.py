"""Frozen parameters on three ranks: no gradient is sent for what needs none, none is stepped."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.plan.folder import read_plan
from pipecut.runtime.checkpoint.export import export
from pipecut.runtime.checkpoint.manifest import read_manifest
from tests.models.adapters.lora import build
from tests.ranks import run_ranks

JOB = """
model: {factory: "tests.models.adapters.lora:build"}
inputs: "tests.models.adapters.lora:inputs"
batch: {global: 8, microbatch: 2}
optimizer: {name: adamw, lr: 0.1, weight_decay: 0.1}
placement: {on_stage: {"gate": 0, "layers.1": 0, "layers.3": 1, "layers.4": 2}}
"""
TRAIN = """
from pipecut.runtime.ranks.messages import GroupMessages
from tests.models.adapters.lora import batches
sent = []
isend = GroupMessages.isend
def counted(self, tensor, target, group):
    if tensor.dim() == 2:  # of a boundary, and not the loss
        sent.append([target, list(tensor.shape)])
    return isend(self, tensor, target, group)
GroupMessages.isend = counted
pipe = pipecut.load({plan!r}, restoring={restoring})
optimizer = pipe.optimizer()
begun = pipe.restore({home!r}, optimizer) if {restoring} else 0
for step, batch in list(enumerate(batches(), 1))[begun:{steps}]:
    loss = pipe.step(**batch)
    optimizer.step()
    pipe.save({home!r}, optimizer, step=step, trained_only=True)
stepped = [n for n, p in pipe.named_parameters() for g in optimizer.optimizer.param_groups
           if any(q is p for q in g["params"])]
import json
print(json.dumps([sent, sorted(stepped), float(loss)]))
"""
pytestmark = pytest.mark.slow


@pytest.fixture
def plan(tmp_path: Path, slow_cores: str) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    compile(tmp_path / "job.yaml", slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=3)))
    return tmp_path / "plan"


def trained(plan: Path, steps: int, home: Path, restoring: bool = False) -> list[list[object]]:
    """What each rank sent, which parameters it steps, and its last loss."""
    body = TRAIN.format(plan=str(plan), steps=steps, home=str(home), restoring=restoring)
    (plan.parent / "store").unlink(missing_ok=True)
    ended = run_ranks(plan.parent, [body] * 3, seconds=400)
    assert all(rank.code == 0 for rank in ended), ended
    return [json.loads(rank.output.splitlines()[-1]) for rank in ended]


def test_no_gradient_is_sent_for_what_needs_none(plan: Path, tmp_path: Path) -> None:
    boundaries = read_plan(plan).plan.boundaries
    needs = [[tensor.needs_grad for tensor in boundary.tensors] for boundary in boundaries]
    assert needs[0] == [False, False] and sorted(needs[1]) == [False, True]
    first, second, third = trained(plan, 1, tmp_path / "saved")
    hidden = [2, 8]
    # Activations of four microbatches; from the last stage one gradient of each, to the first none.
    assert first[0] == [[1, hidden]] * 8
    assert sorted(second[0]) == [[2, hidden]] * 8  # type: ignore[call-overload]
    assert third[0] == [[1, hidden]] * 4
    assert first[1] == []
    names = {name for name, p in build().named_parameters() if p.requires_grad}
    assert {*second[1], *third[1]} == names  # type: ignore[misc]


def test_checkpoints_of_what_is_trained_go_on_exactly(plan: Path, tmp_path: Path) -> None:
    whole = trained(plan, 4, tmp_path / "whole")
    trained(plan, 2, tmp_path / "parts")
    resumed = trained(plan, 4, tmp_path / "parts", restoring=True)
    assert [rank[2] for rank in resumed] == [rank[2] for rank in whole]
    names = {name for name, p in build().named_parameters() if p.requires_grad}
    frozen = {name for name, p in build().named_parameters() if not p.requires_grad}
    manifest = read_manifest(tmp_path / "parts" / "step_00000004")
    in_checkpoint = {name.rpartition("/")[2] for name in manifest.names if "random" not in name}
    assert in_checkpoint == names and set(manifest.frozen) == frozen
    exported = []
    for name in ("whole", "parts"):
        export(read_plan(plan).plan, tmp_path / name, tmp_path / f"{name}.safetensors")
        exported.append(load_file(tmp_path / f"{name}.safetensors"))
    assert set(exported[0]) == names
    assert all(torch.equal(exported[0][name], exported[1][name]) for name in names)
