"""A schedule as torch.distributed.pipelining has it in a CSV: a row per rank, a cell per action.

`2F0` is the forward of stage 2 on microbatch 0; `B` its whole backward, `I` and `W` the two parts
of a split one. `2SEND_F0` sends its activations, `3RECV_F0` is the same message on the other rank.
An empty cell is a pause. `(0F1;3I0)OVERLAP_F_B` are computes that may run at once. torchtitan's
`pipeline_parallel_schedule_csv` takes computes only; torch adds the messages itself.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipecut.compiler.inputs.document.read import read_text
from pipecut.errors import UserFileError
from pipecut.plan.actions import Action, Compute, Recv, Reduce, Send, action_of

# Actions of torch that a plan has no place for, and why each may be left out.
LEFT_OUT = {
    "UNSHARD": "a stage's parameters are whole on its rank",
    "RESHARD": "a stage's parameters are whole on its rank",
    "REDUCE_GRAD": "the plan's own sums come at the end",
}
_KINDS = "F|B|I|W|SEND_F|RECV_F|SEND_B|RECV_B"
_ACTION = re.compile(rf"(?P<stage>\d{{1,9}})(?P<kind>{_KINDS})(?P<microbatch>\d{{1,9}})")
_LEFT_OUT = re.compile(rf"\d+(?P<kind>{'|'.join(LEFT_OUT)})")
_AT_ONCE = re.compile(r"\((?P<parts>[^()]*)\)OVERLAP_F_B")


@dataclass(frozen=True)
class TorchSchedule:
    """The actions of each rank, and how often a kind of action was left out."""

    rows: tuple[tuple[Action, ...], ...]
    left_out: Mapping[str, int]

    @property
    def has_messages(self) -> bool:
        """Whether it says when to send and receive."""
        return any(isinstance(action, Send | Recv) for row in self.rows for action in row)

    @property
    def computes(self) -> list[list[Compute]]:
        """What each rank computes, in order."""
        return [[action for action in row if isinstance(action, Compute)] for row in self.rows]

    def notes(self) -> Iterator[str]:
        """A line for each kind that was left out, with the reason."""
        for kind, count in self.left_out.items():
            yield f"left out {count} {kind}: {LEFT_OUT[kind]}"


def read_csv(path: Path) -> TorchSchedule:
    """Both of torch's formats. Raises UserFileError with file, line and cell."""
    return parse_csv(read_text(path), str(path))


def parse_csv(text: str, where: str) -> TorchSchedule:
    """The schedule of a CSV's text; `where` begins messages. Raises UserFileError."""
    left_out: Counter[str] = Counter()
    rows = []
    # torch counts every line as a rank; one at the end of the file is none.
    lines = list(csv.reader(io.StringIO(text)))
    while lines and not any(cell.strip() for cell in lines[-1]):
        lines.pop()
    for line, cells in enumerate(lines, 1):
        actions: list[Action] = []
        for number, cell in enumerate(cells, 1):
            actions += _actions(cell.strip(), f"{where}:{line}: cell {number}", left_out)
        rows.append(tuple(actions))
    if not any(rows):
        raise UserFileError(f"{where}:1: no action; give a row per rank, such as 0F0,0F1,0B0,0B1")
    return TorchSchedule(tuple(rows), dict(left_out))


def _actions(cell: str, where: str, left_out: Counter[str]) -> list[Action]:
    """The actions of a cell: none, one, or several that may run at once, in their order."""
    if not cell:
        return []
    at_once = _AT_ONCE.fullmatch(cell)
    if at_once is not None:
        parts = at_once["parts"].split(";")
        return [action for part in parts for action in _actions(part.strip(), where, left_out)]
    without = _LEFT_OUT.fullmatch(cell)
    if without is not None:
        left_out[without["kind"]] += 1
        return []
    fields = _ACTION.fullmatch(cell)
    if fields is None:
        raise UserFileError(
            f"{where}: '{cell}' is no action; write it like 2F0: stage, F, B, I or W (or SEND_F, "
            "RECV_F, SEND_B, RECV_B), microbatch"
        )
    return [action_of(fields["kind"], int(fields["stage"]), int(fields["microbatch"]))]


def cell_of(action: Action) -> str:
    """An action as torch writes it; a plan's sum has no stage, and is "" here."""
    match action:
        case Compute(op, stage, microbatch):
            return f"{stage}{op}{microbatch}"
        case Send(message):
            return f"{message.sender}SEND_{message.direction}{message.microbatch}"
        case Recv(message):
            return f"{message.receiver}RECV_{message.direction}{message.microbatch}"
        case Reduce():
            return ""


def csv_of(rows: Sequence[Sequence[Action]], messages: bool = False) -> str:
    """The CSV of each rank's actions; with `messages` in torch's format "compute_comms"."""
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\n")
    for row in rows:
        actions = [a for a in row if isinstance(a, Compute | Send | Recv if messages else Compute)]
        writer.writerow(map(cell_of, actions))
    return written.getvalue()
