"""meetings.json: the numbers of each rank's messages (replay/meetings.py), a line per rank.

The compiler and `pipecut seal` write it, once the whole schedule is proven. A plan without it, such
as one written by hand, is proven whole by every rank.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pipecut.errors import PlanError
from pipecut.plan.consistency import MEETINGS
from pipecut.plan.replay.deadlock import Rows
from pipecut.plan.replay.meetings import SEAL_AGAIN, exchanges_of, meetings_of
from pipecut.plan.replay.traffic import Traffic
from pipecut.plan.schema import Plan

FIRST, LAST = '{"ranks": [', "]}"


def write_meetings(folder: Path, plan: Plan, rows: Rows) -> dict[str, str]:
    """Write the file beside a schedule. Returns its sha256 by its name.

    Nothing is written where ranks wait in a circle, or have a message that the plan does not: then
    each rank reads the whole schedule, which the checker refuses in words.
    """
    traffic = Traffic.of(plan)
    try:
        numbers = meetings_of([exchanges_of(traffic, rank, row) for rank, row in enumerate(rows)])
    except PlanError:
        numbers = None
    if numbers is None:
        return {}
    text = meetings_text(numbers)
    (folder / MEETINGS).write_text(text, encoding="utf-8")
    return {MEETINGS: hashlib.sha256(text.encode()).hexdigest()}


def meetings_text(numbers: Sequence[Sequence[int]]) -> str:
    """The file's text."""
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in numbers)
    return f"{FIRST}\n{rows}\n{LAST}\n"


class MeetingsFile:
    """The file as read, of which a rank decodes its own line and its peers'."""

    def __init__(self, file: Path, data: bytes) -> None:
        self.file, self.lines = file, data.decode("utf-8", errors="replace").splitlines()

    def numbers_of(self, rank: int) -> tuple[int, ...]:
        """The numbers of a rank's messages. Raises PlanError."""
        lines = self.lines
        whole = len(lines) > rank + 2 and (lines[0], lines[-1]) == (FIRST, LAST)
        try:
            row = json.loads(lines[1 + rank].removesuffix(",")) if whole else None
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, list) or not all(type(number) is int for number in row):
            raise PlanError(f"{self.file}: no list of numbers for rank {rank}; {SEAL_AGAIN}")
        return tuple(row)
