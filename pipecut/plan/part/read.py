"""What one rank reads of a plan folder: all but the rows of ranks it exchanges nothing with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipecut.plan.actions import Action
from pipecut.plan.consistency import GRAPH, MEETINGS, SCHEDULE
from pipecut.plan.folder import ScheduleFile, checked_bytes, graph_of, read_manifest_and_hashes
from pipecut.plan.part.meetings_file import MeetingsFile
from pipecut.plan.replay.meetings import Numbered, exchanges_of
from pipecut.plan.replay.traffic import Traffic
from pipecut.plan.schema import Plan
from pipecut.plan.schema.graph import PlanGraph

Row = tuple[Action, ...]


@dataclass(frozen=True)
class PlanPart:
    """A plan with the actions of one pipeline rank, and how its messages are numbered.

    `rows` has the actions of that rank and of its `peers`, the ranks that it exchanges messages
    with; `numbered` their messages. Of a plan without numbers `rows` has all ranks, and `numbered`
    none.
    """

    path: Path
    plan: Plan
    graph: PlanGraph
    pipeline_rank: int
    ranks_in_schedule: int
    rows: Mapping[int, Row]
    numbered: Mapping[int, Numbered]

    @property
    def actions(self) -> Row:
        """The rank's own."""
        return self.rows[self.pipeline_rank]

    @property
    def peers(self) -> Sequence[int]:
        """The ranks that it exchanges messages with."""
        return [rank for rank in self.numbered if rank != self.pipeline_rank]


def read_part(path: Path, rank: int, code: Path | None = None) -> PlanPart:
    """Read what a rank needs of a plan folder, and compare every hash.

    Of one rank too many, which is refused when ranks meet, it is the last one's. Raises PlanError
    that names file and remedy.
    """
    plan = read_manifest_and_hashes(path, code)
    graph = graph_of(path / GRAPH, checked_bytes(path, plan, GRAPH))
    schedule = ScheduleFile(path / SCHEDULE, checked_bytes(path, plan, SCHEDULE))
    layout = plan.layout
    mine = min(layout.place(rank).pipeline_rank, layout.pipeline_ranks - 1)
    count = len(schedule)
    # A schedule of too few ranks is refused by the check.
    own = schedule.row(mine) if mine < count else ()
    if MEETINGS not in plan.hashes:
        rows = {other: schedule.row(other) for other in range(count)} | {mine: own}
        return PlanPart(path, plan, graph, mine, count, rows, {})
    meetings = MeetingsFile(path / MEETINGS, checked_bytes(path, plan, MEETINGS))
    traffic = Traffic.of(plan)
    peers = {exchange.peer for exchange in exchanges_of(traffic, mine, own)} - {mine}
    rows = {mine: own} | {peer: schedule.row(peer) for peer in sorted(peers) if peer < count}
    numbered = {
        rank: Numbered(rank, exchanges_of(traffic, rank, row), meetings.numbers_of(rank))
        for rank, row in rows.items()
    }
    return PlanPart(path, plan, graph, mine, count, rows, numbered)
