"""Forward alone: every stage, every microbatch, and no rank that waits in a circle."""

from hypothesis import given
from hypothesis import strategies as st

from pipecut.plan.actions import ActionTable, Compute
from pipecut.plan.channels import channels
from pipecut.plan.forward_only import forward_only
from pipecut.plan.replay.deadlock import check_order, check_steps
from pipecut.plan.replay.traffic import Traffic
from pipecut.plan.schema import Plan
from tests.golden import check_golden
from tests.plans import made_plan, made_stage


def placed(ranks: list[int]) -> Plan:
    """A chain whose stages are on these pipeline ranks."""
    count = len(ranks)
    stages = [made_stage(s, count, pipeline_rank=rank) for s, rank in enumerate(ranks)]
    return made_plan(count, stages=stages)


def rows_of(plan: Plan, microbatches: int) -> ActionTable:
    ranks = range(plan.layout.pipeline_ranks)
    return ActionTable(tuple(forward_only(plan, rank, microbatches)) for rank in ranks)


def test_three_stages_run_forward_alone() -> None:
    check_golden("forward_only", str(rows_of(made_plan(3), 3)))


def test_stages_of_one_rank_send_nothing() -> None:
    actions = forward_only(placed([0, 0]), 0, 2)
    assert [str(action) for action in actions] == ["F 0.0", "F 0.1", "F 1.0", "F 1.1"]


# Stages in turn over the ranks, or there and back.
PLACES = st.integers(1, 5).flatmap(
    lambda ranks: st.sampled_from(
        [
            list(range(ranks)),
            [*range(ranks), *range(ranks)],
            [*range(ranks), *reversed(range(ranks))],
        ]
    )
)


@given(PLACES, st.integers(1, 6))
def test_every_forward_runs_once_and_nothing_hangs(ranks: list[int], microbatches: int) -> None:
    plan = placed(ranks)
    rows, traffic = rows_of(plan, microbatches), Traffic.of(plan)
    computes = [action for row in rows for action in row if isinstance(action, Compute)]
    expected = {Compute("F", s, m) for s in range(len(ranks)) for m in range(microbatches)}
    assert len(computes) == len(expected) and set(computes) == expected
    check_order(traffic, rows)
    for occupied in (False, True):
        check_steps(traffic, rows, channels(plan), occupied)
