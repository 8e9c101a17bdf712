"""A rank's part of the proof that a plan is sound; all ranks together have the whole of it.

What a plan says of everything is checked by each rank; of the schedule, its own row and that the
ranks it exchanges messages with have the same messages at the same numbers.
"""

from collections.abc import Sequence

from pipecut.errors import PlanError
from pipecut.plan.actions import Action
from pipecut.plan.channels import channels
from pipecut.plan.check.computes import check_row
from pipecut.plan.check.evaluation import evaluates
from pipecut.plan.check.memory import rank_fits
from pipecut.plan.check.messages import channels_open, in_order, no_deadlock
from pipecut.plan.check.placement import all_placed, flows_forward, names_known
from pipecut.plan.check.value_checks import values_checked
from pipecut.plan.forward_only import forward_only
from pipecut.plan.part.read import PlanPart
from pipecut.plan.replay.deadlock import check_ranks
from pipecut.plan.replay.meetings import SEAL_AGAIN, Numbered, check_meetings, exchanges_of
from pipecut.plan.replay.row_rules import RowRules
from pipecut.plan.replay.traffic import Traffic


def check_part(part: PlanPart) -> None:
    """Raises PlanError with the first thing that does not hold."""
    plan, graph, mine, row = part.plan, part.graph, part.pipeline_rank, part.actions
    names_known(plan, graph)
    all_placed(plan, graph)
    flows_forward(plan, graph)
    ranks = plan.layout.pipeline_ranks
    if part.ranks_in_schedule != ranks:
        raise PlanError(
            f"schedule.yaml has {part.ranks_in_schedule} ranks, the plan {ranks}; compile again"
        )
    check_row(plan, mine, row)
    if part.numbered:
        channels_open(plan)
        _messages_meet(part)
        _evaluation_meets(part)
    else:
        rows = [part.rows[rank] for rank in range(ranks)]
        in_order(plan, rows)
        no_deadlock(plan, rows)
    rank_fits(plan, graph, mine, row)
    evaluates(plan, graph)
    list(values_checked(plan, graph))


def _messages_meet(part: PlanPart) -> None:
    """Nothing in the row comes before what it needs, and each message meets its other side."""
    traffic, mine = Traffic.of(part.plan), part.pipeline_rank
    check_ranks(traffic, mine, part.actions)
    _check_needs(part, traffic, part.actions)
    check_meetings(part.numbered[mine], [part.numbered[peer] for peer in part.peers])


def _evaluation_meets(part: PlanPart) -> None:
    """The same of an evaluation, of one microbatch and of as many as a step has."""
    evaluated, mine = part.plan.in_evaluation(), part.pipeline_rank
    traffic = Traffic.of(evaluated)
    for microbatches in (1, part.plan.microbatches):
        row = forward_only(evaluated, mine, microbatches)
        _check_needs(part, traffic, row)
        numbered = _numbered_by_order(traffic, mine, row)
        peers = sorted({exchange.peer for exchange in numbered.exchanges})
        rows = [(peer, forward_only(evaluated, peer, microbatches)) for peer in peers]
        check_meetings(numbered, [_numbered_by_order(traffic, peer, row) for peer, row in rows])


def _check_needs(part: PlanPart, traffic: Traffic, row: Sequence[Action]) -> None:
    mine = part.pipeline_rank
    early = RowRules(traffic, mine, frozenset(channels(part.plan))).follow(row)
    if early is not None:
        raise PlanError(f"rank {mine}: '{early}' comes before what it needs; {SEAL_AGAIN}")


def _numbered_by_order(traffic: Traffic, rank: int, row: Sequence[Action]) -> Numbered:
    """An evaluation's messages, by the order that all its ranks follow."""
    exchanges, stages = exchanges_of(traffic, rank, row), len(traffic.pipeline_rank_of)
    numbers = [
        (e.message.sender + e.message.microbatch) * stages + e.message.sender for e in exchanges
    ]
    return Numbered(rank, exchanges, numbers)
