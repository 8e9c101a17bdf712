"""A schedule from elsewhere, put into a plan: its computes lowered to actions, proven, or refused.

Refusals name what is wrong in words, and show the schedule as far as it gets.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from pipecut.compiler.exchange.fitting import (
    Computes,
    ImportOptions,
    fitting_backwards,
    refuse_other_stages,
    refuse_uneven,
)
from pipecut.compiler.exchange.memory_picture import memory_picture
from pipecut.compiler.exchange.torch_csv import TorchSchedule, cell_of
from pipecut.compiler.schedules.lower import lower
from pipecut.compiler.schedules.order import needed_by, start_times
from pipecut.compiler.schedules.picture import MOST_MOMENTS, picture_of
from pipecut.errors import PlanError
from pipecut.plan.actions import Action, ActionTable, Compute, Reduce
from pipecut.plan.check.check import check
from pipecut.plan.check.messages import in_order, no_deadlock
from pipecut.plan.edit.rescheduled import with_actions
from pipecut.plan.folder import PlanFolder
from pipecut.plan.replay.traffic import Traffic
from pipecut.plan.schema import Plan

# Between the schedule that a plan was compiled with and the file that has taken its place.
REPLACED = " (replaced by "


def with_schedule(
    folder: PlanFolder, schedule: TorchSchedule, source: Path, options: ImportOptions
) -> PlanFolder:
    """The plan with another schedule, its memory and seconds predicted anew, and proven.

    Raises UserFileError for a schedule of other ranks, stages, microbatches or backwards, and
    PlanError for one that deadlocks or does not fit in memory.
    """
    plan = folder.plan
    refuse_other_stages(plan, schedule.computes, source)
    computes = fitting_backwards(plan, schedule.computes, source, options)
    refuse_uneven(plan, computes, source)
    starts = refuse_circle(plan, computes, source)
    actions = _actions(plan, schedule, computes, options)
    try:
        in_order(plan, actions)
        no_deadlock(plan, actions)
    except PlanError as error:
        remedy = "order the messages anew with --new-messages"
        raise PlanError(
            f"{source}: {error} ({remedy})\n\n{picture_of(computes, starts, cell_of, MOST_MOMENTS)}"
        ) from None
    scheduled = with_actions(folder, actions)
    name = f"{compiled_schedule(plan)}{REPLACED}{source.name})"
    result = replace(scheduled, plan=scheduled.plan.model_copy(update={"schedule": name}))
    try:
        check(result)
    except PlanError as error:
        raise PlanError(f"{source}: {error}\n\n{memory_picture(result)}") from None
    return result


def compiled_schedule(plan: Plan) -> str:
    """The schedule that the plan was compiled with, whatever has taken its place since."""
    return plan.schedule.partition(REPLACED)[0]


def refuse_circle(plan: Plan, rows: Computes, source: Path) -> dict[Compute, int]:
    """When each compute starts. Raises PlanError where some never can, since ranks wait."""
    stages = len(plan.stages)
    starts = start_times(rows, stages)
    waiting = []
    for rank, row in enumerate(rows):
        stuck = next((compute for compute in row if compute not in starts), None)
        if stuck is not None:
            needs = [need for need in needed_by(stuck, stages) if need not in starts]
            names = ", ".join(f"{cell_of(need)} of {_rank_of(need, rows)}" for need in needs)
            for_what = f"waits for {names}" if needs else "comes behind it"
            waiting.append(f"rank {rank} at {cell_of(stuck)} {for_what}")
    if waiting:
        raise PlanError(
            f"{source}: the schedule deadlocks: {'; '.join(waiting)}; change the order "
            f"of what they compute\n\n{picture_of(rows, starts, cell_of, MOST_MOMENTS)}"
        )
    return starts


def _rank_of(compute: Compute, rows: Computes) -> str:
    rank = next((rank for rank, row in enumerate(rows) if compute in row), None)
    return f"rank {rank}" if rank is not None else "no rank"


def _actions(
    plan: Plan, schedule: TorchSchedule, computes: Computes, options: ImportOptions
) -> ActionTable:
    """The computes with the file's messages, or with new ones."""
    reduce = bool(plan.tied) or plan.replicas > 1
    if schedule.has_messages and not options.new_messages:
        rows = [_with_messages(*pair) for pair in zip(schedule.rows, computes, strict=True)]
        traffic = Traffic.of(plan)
        last: tuple[Action, ...] = (Reduce(),) if reduce else ()
        return ActionTable((*_carried(traffic, row), *last) for row in rows)
    forward, backward = _carrying(plan)
    return lower(computes, plan.layout.pipeline_rank_of, forward, backward, reduce)


def _with_messages(row: Sequence[Action], computes: Sequence[Compute]) -> list[Action]:
    """The row with its computes as they fit the plan: a part of a backward may be gone, or new."""
    result: list[Action] = []
    left = list(computes)
    for action in row:
        if not isinstance(action, Compute):
            result.append(action)
            continue
        # Of a backward that was put into parts both stand here; of one that was joined, W is gone.
        while left and _is_of(left[0], action):
            result.append(left.pop(0))
    return [*result, *left]


def _is_of(fitted: Compute, original: Compute) -> bool:
    same = (fitted.stage, fitted.microbatch) == (original.stage, original.microbatch)
    if not same or (fitted.op == "F") != (original.op == "F"):
        return False
    return original.op == "B" or fitted.op in (original.op, "B")


def _carried(traffic: Traffic, row: Sequence[Action]) -> list[Action]:
    """The row less the messages that the plan does not send: without a tensor, or a gradient."""
    return [a for a in row if isinstance(a, Compute | Reduce) or traffic.crosses(a.message.hop)]


def _carrying(plan: Plan) -> tuple[Collection[int], Collection[int]]:
    """The boundaries that carry activations, and those that carry gradients."""
    forward = {b.left for b in plan.boundaries if b.tensors}
    return forward, {b.left for b in plan.boundaries if any(t.needs_grad for t in b.tensors)}
