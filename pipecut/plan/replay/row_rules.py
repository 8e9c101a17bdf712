"""What a rank's own row must keep, whatever the other ranks do: nothing comes before what it needs.

With messages that all meet (meetings.py) that is all there is to "no schedule hangs".
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from pipecut.plan.actions import Action, Compute, Direction, Message, Recv, Reduce, Send
from pipecut.plan.channels import Channel
from pipecut.plan.replay.traffic import Traffic


@dataclass
class RowRules:
    """What a rank has done so far of its row: what it may do next is its own affair.

    `traffic` says what crosses from rank to rank, `opened` which channels were used before.
    """

    traffic: Traffic
    rank: int
    opened: Collection[Channel]
    forwarded: set[tuple[int, int]] = field(default_factory=set)
    made: set[Message] = field(default_factory=set)
    received: set[Message] = field(default_factory=set)
    # Whether the channel of a hop is open, by direction and receiver.
    open_hops: dict[tuple[Direction, int], bool] = field(default_factory=dict)

    def follow(self, row: Iterable[Action]) -> Action | None:
        """Go through a row; the first action that comes before what it needs, None where none."""
        return next((action for action in row if not self._do(action)), None)

    def _do(self, action: Action) -> bool:
        match action:
            case Compute(op, stage, microbatch):
                if not self._has_what_it_needs(action):
                    return False
                if op == "F":
                    self.forwarded.add((stage, microbatch))
                message = action.makes
                if message is not None:
                    self.made.add(message)
                return True
            case Send(message):
                return message in self.made and self._is_open(message)
            case Recv(message):
                self.received.add(message)
                return self._is_open(message)
            case Reduce():
                return True

    def _is_open(self, message: Message) -> bool:
        hop = message.direction, message.receiver
        if hop not in self.open_hops:
            self.open_hops[hop] = self.traffic.channel(message) in self.opened
        return self.open_hops[hop]

    def _has_what_it_needs(self, compute: Compute) -> bool:
        op, stage, microbatch = compute.op, compute.stage, compute.microbatch
        if op == "W":
            return Message("B", stage - 1, microbatch) in self.made
        if op != "F" and (stage, microbatch) not in self.forwarded:
            return False
        message = compute.needs
        assert message is not None
        if self.traffic.crosses(message):
            return message in self.received
        home = self.traffic.pipeline_rank_of.get(message.sender)
        return home != self.rank or message in self.made
