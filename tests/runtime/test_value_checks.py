"""Answers of a step are compared with the plan's once, and what differs is told on every rank."""

import pytest
import torch

from pipecut.errors import OtherWayError, RunError
from pipecut.plan.schema import Plan, ValueCheck
from pipecut.runtime.ranks.agree.value_checks import (
    StageChecks,
    refuse_other_way,
    telling_other_way,
)
from tests.chain import chain_worlds
from tests.plans import made_plan, made_stage

LABELS = ValueCheck(
    value="ge", condition="labels.max() >= 6", answer=False, source="model.py:7", inputs=["labels"]
)
FINITE = ValueCheck(
    value="all", condition="isfinite(h).all()", answer=True, source="model.py:9", only_raises=True
)


def plan_of(*checks: ValueCheck) -> Plan:
    return made_plan(1, stages=[made_stage(0, 1, checks=list(checks))])


def answered(plan: Plan, answers: dict[int, tuple[bool, bool]]) -> StageChecks:
    """Answers to both checks, by microbatch."""
    checks = StageChecks(plan.stages[0])
    for microbatch, values in answers.items():
        handed = checks.wanted(microbatch)["checks"]
        handed |= dict(zip(("ge", "all"), map(torch.tensor, values), strict=True))
    return checks


def test_what_the_plan_was_made_for_passes() -> None:
    plan = plan_of(LABELS, FINITE)
    (world,) = chain_worlds(plan)
    refuse_other_way(plan, world, [answered(plan, {0: (False, True), 1: (False, True)})], "step 1")
    # A replica that got no microbatch, and a plan without checks.
    refuse_other_way(plan, world, [answered(plan, {})], "step 1")
    assert StageChecks(made_stage()).wanted(0) == {}


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (
            {4: (False, True), 5: (True, True)},
            r"rank 0 on \S+, stage 0, microbatch 5 of step 3: the plan was made for batches where "
            r"labels.max\(\) >= 6 is False \(model.py:7\); this one has True; compile with inputs",
        ),
        ({0: (False, False)}, r"isfinite\(h\).all\(\) is True .*has False; the model itself"),
    ],
)
def test_another_answer_is_told(answers: dict[int, tuple[bool, bool]], told: str) -> None:
    plan = plan_of(LABELS, FINITE)
    (world,) = chain_worlds(plan)
    with pytest.raises(OtherWayError, match=told):
        refuse_other_way(plan, world, [answered(plan, answers)], "step 3")


def test_what_depends_on_a_missing_input_is_not_asked() -> None:
    plan = plan_of(LABELS, FINITE)
    (world,) = chain_worlds(plan)
    refuse_other_way(plan, world, [answered(plan, {0: (True, True)})], "a batch", {"labels"})


@pytest.mark.parametrize(
    ("answer", "told"), [(True, r"rank 2 on \S+, stage 0: the plan was made.*max"), (False, "gone")]
)
def test_a_wrong_answer_is_why_a_step_fails(answer: bool, told: str) -> None:
    plan = plan_of(LABELS)
    checks = StageChecks(plan.stages[0])
    with pytest.raises(RunError, match=told), telling_other_way(2, [checks]):
        checks.wanted(0)["checks"] |= {"ge": torch.tensor(answer)}
        raise RunError("gone")


def test_stage_code_that_hands_out_no_answer_is_refused() -> None:
    plan = plan_of(LABELS)
    (world,) = chain_worlds(plan)
    checks = StageChecks(plan.stages[0])
    checks.wanted(0)
    with pytest.raises(RunError, match="stage_0.py does not hand out 'ge'"):
        refuse_other_way(plan, world, [checks], "step 1")
