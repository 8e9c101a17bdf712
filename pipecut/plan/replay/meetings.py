"""When messages meet: numbers by which each rank proves its part of "no ranks wait in a circle".

Every message has a number, the same on the rank that sends it and on the one that receives it, and
the numbers of a rank's messages rise:

    rank 0   F 0.0  SEND_F 0.0 (1)  F 0.1  SEND_F 0.1 (2)  RECV_B 0.0 (4)  B 0.0 ...
    rank 1          RECV_F 1.0 (1)         RECV_F 1.1 (2)  F 1.0  SEND_F 1.0 (3)  ...

Of the messages that are not done take one with the least number. Both of its ranks have done all
that they exchange before it, and what they compute before it needs nothing else; so both come to
it, and it meets. That holds where a message keeps both of its ranks from anything else until they
have met (the rule *occupied* of deadlock.py), and so under rendezvous, too.

Whether its numbers rise, a rank sees in its own row; whether they are those of the other side, in
the rows of the ranks that it exchanges messages with. All ranks together have the whole proof, and
none needs to read more than its part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from pipecut.errors import PlanError
from pipecut.plan.actions import Action, Message, Recv, Send
from pipecut.plan.replay.traffic import Traffic

SEAL_AGAIN = "pipecut check says what is wrong with the plan; pipecut seal numbers messages anew"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A message that a rank sends to its peer, or receives from it."""

    peer: int
    sends: bool
    message: Message

    def __str__(self) -> str:
        return f"'{Send(self.message) if self.sends else Recv(self.message)}'"


def exchanges_of(traffic: Traffic, rank: int, row: Sequence[Action]) -> list[Exchange]:
    """A rank's messages in order. Raises PlanError where the plan sends nothing there."""
    exchanges, home = [], traffic.pipeline_rank_of
    for action in row:
        if isinstance(action, Send | Recv):
            message, sends = action.message, isinstance(action, Send)
            near, far = message.sender, message.receiver
            if not traffic.crosses(message):
                traffic.message(action)
            exchanges.append(Exchange(home[far if sends else near], sends, message))
    return exchanges


def meetings_of(exchanges: Sequence[Sequence[Exchange]]) -> list[list[int]] | None:
    """The numbers of each rank's messages; None where ranks wait in a circle for each other.

    A number is one more than the larger of those before it on its two ranks.
    """
    at, numbers = [0] * len(exchanges), [list[int]() for _ in exchanges]
    waiting = list(range(len(exchanges)))
    while waiting:
        rank = waiting.pop()
        while at[rank] < len(exchanges[rank]):
            mine = exchanges[rank][at[rank]]
            peer = mine.peer
            if peer == rank or at[peer] == len(exchanges[peer]):
                break
            theirs = exchanges[peer][at[peer]]
            if theirs.message != mine.message or theirs.sends == mine.sends:
                break
            number = 1 + max(last[-1] if last else 0 for last in (numbers[rank], numbers[peer]))
            for side in (rank, peer):
                numbers[side].append(number)
                at[side] += 1
            waiting.append(peer)
    done = all(count == len(row) for count, row in zip(at, exchanges, strict=True))
    return numbers if done else None


@dataclass(frozen=True)
class Numbered:
    """A rank's messages with their numbers."""

    rank: int
    exchanges: Sequence[Exchange]
    numbers: Sequence[int]

    def with_peer(self, peer: int) -> list[tuple[bool, Message, int]]:
        """What it exchanges with another rank: whether it sends, the message and its number."""
        pairs = zip(self.exchanges, self.numbers, strict=True)
        return [(e.sends, e.message, number) for e, number in pairs if e.peer == peer]


def check_meetings(mine: Numbered, peers: Sequence[Numbered]) -> None:
    """A rank's part of the proof; `peers` are the ranks that it exchanges messages with.

    Raises PlanError where numbers do not rise, or are not those of the other side.
    """
    missing = {exchange.peer for exchange in mine.exchanges} - {peer.rank for peer in peers}
    if missing:
        raise PlanError(
            f"rank {mine.rank} exchanges messages with rank {min(missing)}, "
            f"which has no row; {SEAL_AGAIN}"
        )
    _check_numbers(mine)
    for peer in peers:
        _check_numbers(peer)
        _check_sides(mine, peer)


def _check_numbers(row: Numbered) -> None:
    rises = all(earlier < later for earlier, later in pairwise(row.numbers))
    if len(row.exchanges) != len(row.numbers) or not rises:
        raise PlanError(
            f"rank {row.rank}: the numbers of its messages do not rise, one for each; {SEAL_AGAIN}"
        )


def _check_sides(mine: Numbered, theirs: Numbered) -> None:
    here, there = mine.with_peer(theirs.rank), theirs.with_peer(mine.rank)
    for ours, other in zip_longest(here, there):
        if ours is None or other is None or ours[1:] != other[1:] or ours[0] == other[0]:
            said = [_described(side) for side in (ours, other)]
            raise PlanError(
                f"rank {mine.rank} has {said[0]} where rank {theirs.rank} has {said[1]}: the two "
                f"would wait for each other; {SEAL_AGAIN}"
            )


def _described(side: tuple[bool, Message, int] | None) -> str:
    if side is None:
        return "nothing"
    sends, message, number = side
    return f"'{Send(message) if sends else Recv(message)}' as number {number}"
