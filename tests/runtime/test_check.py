"""The checker refuses what would hang, and accepts what the generators make."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecut.compiler import Options, Sizes, compile
from pipecut.compiler.schedules import ORDERS, in_flight, lower
from pipecut.errors import PlanError
from pipecut.runtime.check import check
from pipecut.runtime.plan import Action, PlanFolder


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


@given(st.sampled_from(sorted(ORDERS)), st.integers(1, 8), st.integers(1, 32))
def test_orders_hold_no_more_microbatches_than_promised(schedule: str, stages: int, microbatches: int) -> None:
    for stage in range(stages):
        live = peak = 0
        for kind, _ in ORDERS[schedule](stage, stages, microbatches):
            live += 1 if kind == "F" else -1
            peak = max(peak, live)
        assert peak == in_flight(schedule, stages, microbatches)[stage]


@given(st.sampled_from(sorted(ORDERS)), st.integers(1, 8), st.integers(1, 32))
def test_lowered_schedules_never_deadlock_under_rendezvous(schedule: str, stages: int, microbatches: int) -> None:
    from pipecut.runtime import check as module

    boundaries = range(stages - 1)
    orders = [ORDERS[schedule](s, stages, microbatches) for s in range(stages)]
    rows = tuple(map(tuple, lower(orders, boundaries, boundaries, reduce=False)))

    class Tensor:
        needs_grad = True

    class Boundary:
        def __init__(self, left: int) -> None:
            self.left, self.tensors = left, [Tensor()]

    class Stage:
        def __init__(self, index: int) -> None:
            self.index = self.rank = index

    class Plan:
        stages: list[Stage]
        boundaries: list[Boundary]

    plan: Any = Plan()
    plan.stages, plan.boundaries = list(map(Stage, range(stages))), list(map(Boundary, boundaries))
    assert "no deadlock" in module._no_deadlock(plan, rows)
