"""Whether meetings.json is of the schedule that it lies beside, for all ranks at once."""

from pipecut.plan.consistency import MEETINGS
from pipecut.plan.folder import PlanFolder, checked_bytes
from pipecut.plan.part.meetings_file import MeetingsFile
from pipecut.plan.replay.meetings import Numbered, check_meetings, exchanges_of
from pipecut.plan.replay.traffic import Traffic


def numbers_of_messages(folder: PlanFolder) -> list[str]:
    """What is proven of the file, a line; none of a plan without it.

    Each rank proves its part when it loads the plan. Raises PlanError where one would refuse.
    """
    if MEETINGS not in folder.plan.hashes:
        return []
    traffic = Traffic.of(folder.plan)
    file = MeetingsFile(folder.path / MEETINGS, checked_bytes(folder.path, folder.plan, MEETINGS))
    rows = [
        Numbered(rank, exchanges_of(traffic, rank, row), file.numbers_of(rank))
        for rank, row in enumerate(folder.actions)
    ]
    for mine in rows:
        peers = sorted({exchange.peer for exchange in mine.exchanges})
        check_meetings(mine, [rows[peer] for peer in peers])
    messages = sum(len(row.numbers) for row in rows) // 2
    return [
        f"{messages:,} messages have their numbers in {MEETINGS}, as each rank proves of its own"
    ]
