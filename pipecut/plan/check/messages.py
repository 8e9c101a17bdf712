"""Messages meet in one order, and nothing waits in a circle: replay/deadlock.py asked of a plan."""

from pipecut.plan.channels import Channel, channels, groups_of
from pipecut.plan.forward_only import forward_only
from pipecut.plan.replay.deadlock import Rows, Traffic, check_opening, check_order, check_steps
from pipecut.plan.schema import Plan


def in_order(plan: Plan, actions: Rows) -> str:
    """Every send meets its receive. Raises PlanError."""
    messages = check_order(Traffic.of(plan), actions)
    return f"each of {messages} sends meets its receive, in one order on both sides of its channel"


def no_deadlock(plan: Plan, actions: Rows) -> str:
    """Neither a step nor an evaluation hangs, nor the opening of channels. Raises PlanError."""
    groups = groups_of(plan)
    check_opening(
        {r: [group.ranks for group in groups if r in group.ranks] for r in range(plan.ranks)}
    )
    opened, evaluated = channels(plan), plan.in_evaluation()
    _check_steps(Traffic.of(plan), actions, opened)
    for microbatches in (1, plan.microbatches):
        forwards = [forward_only(evaluated, rank, microbatches) for rank in range(len(actions))]
        check_order(Traffic.of(evaluated), forwards)
        _check_steps(Traffic.of(evaluated), forwards, opened)
    return (
        f"{len(groups)} groups open one after the other; no deadlock under rendezvous, nor where "
        "messages occupy their ranks"
    )


def _check_steps(traffic: Traffic, rows: Rows, opened: list[Channel]) -> None:
    """Under either of the rules of a message's two ranks."""
    for occupied in (False, True):
        check_steps(traffic, rows, opened, occupied)
