"""Messages meet in one order, and nothing waits in a circle: replay/deadlock.py asked of a plan."""

from collections.abc import Collection

from pipecut.plan.channels import Channel, channels, groups_of, opened_by_rank
from pipecut.plan.forward_only import forward_only
from pipecut.plan.replay.deadlock import Rows, check_opening, check_order, check_steps
from pipecut.plan.replay.meetings import exchanges_of, meetings_of
from pipecut.plan.replay.row_rules import RowRules
from pipecut.plan.replay.traffic import Traffic
from pipecut.plan.schema import Plan


def in_order(plan: Plan, actions: Rows) -> str:
    """Every send meets its receive. Raises PlanError."""
    messages = check_order(Traffic.of(plan), actions)
    return f"each of {messages} sends meets its receive, in one order on both sides of its channel"


def no_deadlock(plan: Plan, actions: Rows) -> str:
    """Neither a step nor an evaluation hangs, nor the opening of channels. Raises PlanError."""
    groups = channels_open(plan)
    opened, evaluated = frozenset(channels(plan)), plan.in_evaluation()
    _check_steps(Traffic.of(plan), actions, opened)
    for microbatches in (1, plan.microbatches):
        forwards = [forward_only(evaluated, rank, microbatches) for rank in range(len(actions))]
        check_order(Traffic.of(evaluated), forwards)
        _check_steps(Traffic.of(evaluated), forwards, opened)
    return (
        f"{groups} groups open one after the other; no deadlock under rendezvous, nor where "
        "messages occupy their ranks"
    )


def channels_open(plan: Plan) -> int:
    """Count the groups, none of which keeps ranks waiting in a circle. Raises PlanError."""
    groups = groups_of(plan)
    check_opening(opened_by_rank(groups))
    return len(groups)


def _check_steps(traffic: Traffic, rows: Rows, opened: Collection[Channel]) -> None:
    """Under either of the rules of a message's two ranks.

    Where no row has anything before what it needs and all messages meet, both hold. Else the ranks
    are stepped, which finds where each of them stands.
    """
    in_rows = all(
        RowRules(traffic, rank, opened).follow(row) is None for rank, row in enumerate(rows)
    )
    if in_rows and meetings_of([exchanges_of(traffic, r, row) for r, row in enumerate(rows)]):
        return
    for occupied in (False, True):
        check_steps(traffic, rows, opened, occupied)
