"""The checker refuses what would hang, and accepts what the generators make."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import Options, Sizes, compile
from pipecut.errors import PlanError
from pipecut.runtime.check import check
from pipecut.runtime.plan import Action
from pipecut.runtime.plan_folder import PlanFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> PlanFolder:
    path: Path = tmp_path_factory.mktemp("check")
    job = path / "job.yaml"
    job.write_text('model: {factory: "tests.models:mlp"}\ninputs: "tests.models:vectors"\nbatch: {global: 8, microbatch: 2}\n')
    return compile(job, "auto", path / "plan", Options(Sizes(stages=3)))


def test_a_compiled_plan_passes(folder: PlanFolder) -> None:
    assert len(check(folder)) == 5


def test_a_receive_posted_after_the_send_back_deadlocks(folder: PlanFolder) -> None:
    rows = [list(row) for row in folder.actions]
    # Rank 1 posts its receive of microbatch 1 only after sending a gradient rank 0 waits to receive behind its own send.
    late = Action("RECV_F", 1, 1)
    rows[1].remove(late)
    rows[1].append(late)
    with pytest.raises(PlanError, match="deadlock"):
        check(replace(folder, actions=tuple(map(tuple, rows))))


def test_a_missing_backward_is_refused(folder: PlanFolder) -> None:
    rows = [[a for a in row if str(a) != "B 0.3"] for row in folder.actions]
    with pytest.raises(PlanError, match="B does not run once"):
        check(replace(folder, actions=tuple(map(tuple, rows))))


def test_an_operator_on_an_earlier_stage_than_its_input_is_refused(folder: PlanFolder) -> None:
    operators = [dict(o) for o in folder.graph["operators"]]
    operators[0]["stage"] = 2
    with pytest.raises(PlanError):
        check(replace(folder, graph={**folder.graph, "operators": operators}))


def test_too_little_memory_is_refused(folder: PlanFolder) -> None:
    stages = [s.model_copy(update={"capacity_bytes": 10}) for s in folder.plan.stages]
    with pytest.raises(PlanError, match="needs"):
        check(replace(folder, plan=folder.plan.model_copy(update={"stages": stages})))
