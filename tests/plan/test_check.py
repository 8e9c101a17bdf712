"""The checker refuses what would hang, and accepts what the generators make."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipecut.cli import app
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import PlanError
from pipecut.plan.actions import Reduce, parse_action
from pipecut.plan.channels import channels
from pipecut.plan.check.check import check
from pipecut.plan.folder import PlanFolder, seal, write_seal
from pipecut.plan.replay.deadlock import check_steps
from pipecut.plan.replay.traffic import Traffic
from pipecut.runtime.pipeline import load_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> PlanFolder:
    path: Path = tmp_path_factory.mktemp("check")
    job = path / "job.yaml"
    job.write_text(
        'model: {factory: "tests.models.core:mlp"}\n'
        'inputs: "tests.models.core:vectors"\n'
        "batch: {global: 8, microbatch: 2}\n"
    )
    return compile(job, "auto", path / "plan", Options(SizeOverrides(stages=3)))


def test_a_compiled_plan_passes(folder: PlanFolder) -> None:
    assert len(check(folder)) == 8


def changed(folder: PlanFolder, rank: int, action: str, before: str) -> PlanFolder:
    """One action of a rank moved before another one; at the end where that is empty."""
    rows = [list(row) for row in folder.actions]
    moved = parse_action(action, rank)
    rows[rank].remove(moved)
    rows[rank].insert(
        rows[rank].index(parse_action(before, rank)) if before else len(rows[rank]), moved
    )
    return replace(folder, actions=tuple(map(tuple, rows)))


def test_a_receive_posted_after_what_needs_it_deadlocks(folder: PlanFolder) -> None:
    with pytest.raises(PlanError, match=r"deadlocks: rank 0 at 'B 0\.0'"):
        check(changed(folder, 0, "RECV_B 0.0", "F 0.3"))


def test_a_receive_posted_before_what_its_sender_needs_deadlocks_where_a_gpu_synchronises(
    folder: PlanFolder,
) -> None:
    early = changed(folder, 0, "RECV_B 0.0", "F 0.0")
    traffic = Traffic.of(folder.plan)
    # Under rendezvous alone, nothing is wrong with it.
    check_steps(traffic, early.actions, channels(folder.plan))
    with pytest.raises(
        PlanError, match=r"deadlocks on a GPU that synchronises.*rank 0 at 'RECV_B 0\.0'"
    ):
        check(early)


def test_two_receives_in_another_order_than_their_sends_are_refused(folder: PlanFolder) -> None:
    with pytest.raises(
        PlanError,
        match=r"from rank 0 to rank 1: .* sends 'SEND_F 0\.1', rank 1 receives 'RECV_F 1\.2'",
    ):
        check(changed(folder, 1, "RECV_F 1.2", "RECV_F 1.1"))


def test_seal_and_load_refuse_receives_swapped_by_hand(folder: PlanFolder, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    shutil.copytree(folder.path, plan)
    schedule = plan / "schedule.yaml"
    text = schedule.read_text()
    swapped = (
        text.replace("RECV_F 1.1", "*")
        .replace("RECV_F 1.2", "RECV_F 1.1")
        .replace("*", "RECV_F 1.2")
    )
    schedule.write_text(swapped)
    told = CliRunner().invoke(app, ["seal", str(plan)])
    assert isinstance(told.exception, PlanError) and "message 1 from rank 0 to rank 1" in str(
        told.exception
    )
    with pytest.raises(PlanError, match="was edited"):
        load_pipeline(plan, "cpu")
    write_seal(seal(plan))
    with pytest.raises(PlanError, match="message 1 from rank 0 to rank 1"):
        load_pipeline(plan, "cpu")


def test_gradients_that_come_after_they_are_summed_are_refused(folder: PlanFolder) -> None:
    rows = [[Reduce(), *row] for row in folder.actions]
    with pytest.raises(PlanError, match="REDUCE is not the last"):
        check(replace(folder, actions=tuple(map(tuple, rows))))


def test_a_missing_backward_is_refused(folder: PlanFolder) -> None:
    rows = [[a for a in row if str(a) != "B 0.3"] for row in folder.actions]
    with pytest.raises(PlanError, match="B does not run once"):
        check(replace(folder, actions=tuple(map(tuple, rows))))


def test_an_operator_on_an_earlier_stage_than_its_input_is_refused(folder: PlanFolder) -> None:
    first, *rest = folder.graph.operators
    operators = (first.model_copy(update={"stage": 2}), *rest)
    graph = folder.graph.model_copy(update={"operators": operators})
    with pytest.raises(PlanError):
        check(replace(folder, graph=graph))


def test_too_little_memory_is_refused(folder: PlanFolder) -> None:
    stages = [s.model_copy(update={"capacity_bytes": 10}) for s in folder.plan.stages]
    with pytest.raises(PlanError, match="needs"):
        check(replace(folder, plan=folder.plan.model_copy(update={"stages": stages})))
