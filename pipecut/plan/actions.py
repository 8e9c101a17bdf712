"""A rank's actions as types, and the text that schedule.yaml has for each.

F 2.0         Compute("F", 2, 0)        forward of stage 2 on microbatch 0
B 2.0         Compute("B", 2, 0)        its backward, all of it
I 2.0         Compute("I", 2, 0)        or its first part: the gradients of the stage's inputs,
W 2.0         Compute("W", 2, 0)        and, later, those of its weights
SEND_F 2.0    Send(Message("F", 3, 0))  activations from stage 2 to stage 3
RECV_F 3.0    Recv(Message("F", 3, 0))  the same message on the other rank
SEND_B 2.0    Send(Message("B", 1, 0))  gradients from stage 2 to stage 1
REDUCE        Reduce()                  sum gradients over replicas and over tied stages
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, cast

from pipecut.errors import PlanError

Op = Literal["F", "B", "I", "W"]
# Activations go forward (F) to the next stage, gradients backward (B) to the one before.
Direction = Literal["F", "B"]


@dataclass(frozen=True, slots=True)
class Hop:
    """One boundary in one direction: where a message of any microbatch arrives."""

    direction: Direction
    receiver: int

    @property
    def sender(self) -> int:
        """The neighbouring stage that sends."""
        return self.receiver - 1 if self.direction == "F" else self.receiver + 1

    @property
    def boundary(self) -> int:
        """The number of the boundary, which is that of the stage before it."""
        return min(self.sender, self.receiver)


@dataclass(frozen=True, slots=True)
class Message:
    """A microbatch's activations or gradients on their way to stage `receiver`.

    Whether they exist, and go from rank to rank, is up to the plan's boundaries.
    """

    direction: Direction
    receiver: int
    microbatch: int

    @property
    def hop(self) -> Hop:
        """The boundary and direction that it takes, whatever its microbatch."""
        return Hop(self.direction, self.receiver)

    @property
    def sender(self) -> int:
        """The neighbouring stage that sends."""
        return self.receiver - 1 if self.direction == "F" else self.receiver + 1

    @property
    def boundary(self) -> int:
        """The number of the boundary that it crosses, which is that of the stage before it."""
        return self.receiver - 1 if self.direction == "F" else self.receiver

    @property
    def answer(self) -> "Message":
        """The microbatch's message over the same boundary in the other direction."""
        return Message("B" if self.direction == "F" else "F", self.sender, self.microbatch)


@dataclass(frozen=True, slots=True)
class Compute:
    """Forward or (a part of) backward of a stage on a microbatch."""

    op: Op
    stage: int
    microbatch: int

    def __str__(self) -> str:
        return f"{self.op} {self.stage}.{self.microbatch}"

    @property
    def needs(self) -> Message | None:
        """What it takes from a neighbouring stage, where there is one; W takes nothing."""
        if self.op == "W":
            return None
        return Message("F" if self.op == "F" else "B", self.stage, self.microbatch)

    @property
    def makes(self) -> Message | None:
        """What it makes for a neighbouring stage, where there is one; W makes nothing."""
        if self.op == "W":
            return None
        if self.op == "F":
            return Message("F", self.stage + 1, self.microbatch)
        return Message("B", self.stage - 1, self.microbatch)


@dataclass(frozen=True, slots=True)
class Send:
    """Start to send a message that a stage of this rank has made."""

    message: Message

    def __str__(self) -> str:
        message = self.message
        return f"SEND_{message.direction} {message.sender}.{message.microbatch}"


@dataclass(frozen=True, slots=True)
class Recv:
    """Post the receive of a message, ahead of the action that needs it."""

    message: Message

    def __str__(self) -> str:
        message = self.message
        return f"RECV_{message.direction} {message.receiver}.{message.microbatch}"


@dataclass(frozen=True, slots=True)
class Reduce:
    """Sum the gradients of the rank's parameters over tied stages, then over replicas."""

    def __str__(self) -> str:
        return "REDUCE"


Action = Compute | Send | Recv | Reduce


class ActionTable(tuple[tuple[Action, ...], ...]):
    """The actions of every pipeline rank, in order. Prints a column per rank."""

    __slots__ = ()

    def __str__(self) -> str:
        columns = [[f"rank {rank}", *map(str, row)] for rank, row in enumerate(self)]
        widths = [max(map(len, column)) for column in columns]
        lines = zip_longest(*columns, fillvalue="")
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


# The position of a kind here is its code in status files: add new ones at the end.
KINDS = ("F", "B", "I", "W", "SEND_F", "RECV_F", "SEND_B", "RECV_B", "REDUCE")
_TEXT = re.compile(r"(?P<kind>[A-Z_]+) (?P<stage>[0-9]{1,10})\.(?P<microbatch>[0-9]{1,10})")


def stage_of(action: Action) -> int | None:
    """The stage that computes, sends or receives; None for Reduce, which is the rank's."""
    match action:
        case Compute(_, stage, _):
            return stage
        case Send(message):
            return message.sender
        case Recv(message):
            return message.receiver
        case Reduce():
            return None


def microbatch_of(action: Action) -> int | None:
    """The microbatch; None for Reduce, which comes after all of them."""
    match action:
        case Compute(_, _, microbatch):
            return microbatch
        case Send(message) | Recv(message):
            return message.microbatch
        case Reduce():
            return None


def splits_backward(actions: Iterable[Action]) -> bool:
    """Whether gradients of weights are computed apart from those of inputs."""
    return any(isinstance(action, Compute) and action.op == "W" for action in actions)


def kind_of(action: Action) -> str:
    """The first word of an action's text."""
    return str(action).partition(" ")[0]


def action_of(kind: str, stage: int, microbatch: int) -> Action:
    """The action of one of `KINDS`; Reduce has neither stage nor microbatch."""
    if kind == "REDUCE":
        return Reduce()
    if kind in ("SEND_F", "SEND_B"):
        receiver = stage + 1 if kind == "SEND_F" else stage - 1
        return Send(Message("F" if kind == "SEND_F" else "B", receiver, microbatch))
    if kind in ("RECV_F", "RECV_B"):
        return Recv(Message("F" if kind == "RECV_F" else "B", stage, microbatch))
    return Compute(cast(Op, kind), stage, microbatch)


def parse_action(text: str, rank: int) -> Action:
    """The action that prints as `text`, such as `SEND_F 0.3`. Raises PlanError, naming the rank."""
    if text == "REDUCE":
        return Reduce()
    fields = _TEXT.fullmatch(text)
    if fields is None or fields["kind"] not in KINDS or fields["kind"] == "REDUCE":
        raise PlanError(
            f"schedule.yaml: rank {rank} has the action '{text}'; "
            "write it like 'F 0.3' (stage.microbatch)"
        )
    return action_of(fields["kind"], int(fields["stage"]), int(fields["microbatch"]))
