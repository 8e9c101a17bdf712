"""Prove that no schedule hangs, knowing nothing of how it was made: ranks are stepped until all are done or none can move.

What the step must stand, a rule each:

- *order*: a channel's messages are received in the order they are sent in. NCCL ignores tags, so another order would put one
  tensor into the place of another one without a word.
- *rendezvous*: a send keeps its rank until the receive is posted. What cannot deadlock so cannot with buffered sends either.
- *first use*: whoever uses a channel first waits until the other rank does, unless it was opened before.
- *occupied*: a message keeps both of its ranks from anything else until they have met, as it does on a GPU where anything
  synchronises the whole device, the allocator for one. What stands this stands rendezvous, too.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pipecut.errors import PlanError
from pipecut.plan.schema import Action, Plan

Rows = Sequence[Sequence[Action]]
# F or B, the boundary, the microbatch.
Message = tuple[str, int, int]
# The rank that sends and the one that receives.
Channel = tuple[int, int]


@dataclass(frozen=True)
class Traffic:
    """The rank of each stage, and the boundaries (s, to s+1) whose activations and gradients go from rank to rank."""

    pipeline_rank_of: Mapping[int, int]
    forward: frozenset[int]
    backward: frozenset[int]

    @classmethod
    def of(cls, plan: Plan) -> "Traffic":
        """Of one pipeline of a plan."""
        over = [b for b in plan.boundaries if plan.over_link(b.left)]
        returning = [b.left for b in over if any(tensor.needs_grad for tensor in b.tensors)]
        return cls(
            plan.pipeline_rank_of,
            frozenset(b.left for b in over if b.tensors),
            frozenset(returning),
        )

    def channel(self, message: Message) -> Channel:
        """That a message takes."""
        kind, left, _ = message
        pair = self.pipeline_rank_of[left], self.pipeline_rank_of[left + 1]
        return pair if kind == "F" else (pair[1], pair[0])

    def message(self, action: Action) -> Message | None:
        """What an action sends or receives. Raises PlanError where nothing crosses there."""
        if "_" not in action.kind:
            return None
        way = action.kind[-1]
        left = action.stage - (1 if action.kind in ("RECV_F", "SEND_B") else 0)
        if left not in (self.forward if way == "F" else self.backward):
            raise PlanError(f"'{action}': nothing goes that way between ranks there; compile again")
        return way, left, action.microbatch


def check_order(traffic: Traffic, rows: Rows) -> int:
    """Messages, each of which is received in its turn. Raises PlanError."""
    sent: dict[Channel, list[Action]] = defaultdict(list)
    received: dict[Channel, list[Action]] = defaultdict(list)
    for rank, row in enumerate(rows):
        for action in row:
            if action.kind != "REDUCE" and traffic.pipeline_rank_of.get(action.stage) != rank:
                where = traffic.pipeline_rank_of.get(action.stage)
                raise PlanError(
                    f"rank {rank} has '{action}', but stage {action.stage} is on rank {where}"
                )
            message = traffic.message(action)
            if message is not None:
                (sent if action.kind.startswith("SEND") else received)[
                    traffic.channel(message)
                ].append(action)
    for channel in sorted({*sent, *received}):
        source, target = channel
        for number in range(max(len(sent[channel]), len(received[channel]))):
            ends = [
                row[number] if number < len(row) else None
                for row in (sent[channel], received[channel])
            ]
            first, second = [
                traffic.message(action) if action is not None else None for action in ends
            ]
            if first != second:
                there, here = [
                    f"'{action}'" if action is not None else "nothing" for action in ends
                ]
                raise PlanError(
                    f"message {number} from rank {source} to rank {target} is {there} for the one and {here} for the other: "
                    "a receive without its send, or in another order than they are sent in, which is all that NCCL goes by; "
                    "post receives in the order of the sends, or compile again"
                )
    return sum(map(len, sent.values()))


def check_steps(
    traffic: Traffic, rows: Rows, opened: Collection[Channel], occupied: bool = False
) -> None:
    """Step until all are done. `opened` are the channels that were used before, `occupied` the last of the rules.

    Raises PlanError that names where each rank stands.
    """
    stepping = _Stepping(traffic, rows, set(opened), occupied)
    while any([stepping.advance(rank) for rank in range(len(rows))]):
        pass
    stuck = [
        (rank, action)
        for rank in range(len(rows))
        if (action := stepping.current(rank)) is not None
    ]
    if stuck:
        where = "; ".join(f"rank {rank} at '{action}'" for rank, action in stuck)
        why = (
            " on a GPU that synchronises, where a posted receive is in the way until its message comes"
            if occupied
            else ""
        )
        raise PlanError(f"the schedule deadlocks{why}: {where}; compile again")


class _Stepping:
    """Where every rank is."""

    def __init__(self, traffic: Traffic, rows: Rows, opened: set[Channel], occupied: bool) -> None:
        self.traffic, self.rows, self.opened, self.occupied = traffic, rows, opened, occupied
        self.at = [0] * len(rows)
        self.computed: set[Message] = set()
        self.posted: set[Message] = set()
        self.sent: set[Message] = set()

    def current(self, rank: int) -> Action | None:
        """What a rank is at; None when it is done."""
        return self.rows[rank][self.at[rank]] if self.at[rank] < len(self.rows[rank]) else None

    def advance(self, rank: int) -> bool:
        """As far as the rank can go; whether it moved."""
        begin = self.at[rank]
        while (action := self.current(rank)) is not None and self._ready(action):
            self._do(action)
            self.at[rank] += 1
        return self.at[rank] > begin

    def _ready(self, action: Action) -> bool:
        message = self.traffic.message(action)
        if message is not None:
            return self._meets(action, message)
        s, m = action.stage, action.microbatch
        if action.kind == "F":
            return self._arrived("F", s - 1, m, ("F", s - 1, m))
        if action.kind in ("B", "I"):
            return ("F", s, m) in self.computed and self._arrived("B", s, m, ("B", s + 1, m))
        return action.kind != "W" or ("B", s, m) in self.computed

    def _arrived(self, way: str, boundary: int, m: int, maker: Message) -> bool:
        """Whether what crosses a boundary is here: sent, or made on this rank."""
        if boundary in (self.traffic.forward if way == "F" else self.traffic.backward):
            return (way, boundary, m) in self.sent
        ranks = [self.traffic.pipeline_rank_of.get(s) for s in (boundary, boundary + 1)]
        return ranks[0] != ranks[1] or maker in self.computed

    def _meets(self, action: Action, message: Message) -> bool:
        sends = action.kind.startswith("SEND")
        if sends and (message[0], action.stage, message[2]) not in self.computed:
            raise PlanError(f"'{action}' comes before what it sends is computed")
        channel = self.traffic.channel(message)
        other = self.current(channel[1] if sends else channel[0])
        beside = self.traffic.message(other) if other is not None else None
        if channel not in self.opened:
            if beside is None or self.traffic.channel(beside) != channel:
                return False
            self.opened.add(channel)
        if not self.occupied:
            return not sends or message in self.posted
        # The one that comes second finds that the first has met it.
        return beside == message or message in (self.posted if sends else self.sent)

    def _do(self, action: Action) -> None:
        message = self.traffic.message(action)
        if message is not None:
            (self.sent if action.kind.startswith("SEND") else self.posted).add(message)
        elif action.kind in ("F", "B", "I"):
            self.computed.add(("F" if action.kind == "F" else "B", action.stage, action.microbatch))


def check_opening(lists: Mapping[int, Sequence[Sequence[int]]]) -> None:
    """Each rank opens its groups, given by their ranks, in the order of its list.

    A group opens once all its ranks have come to it, and keeps them until then. Raises PlanError.
    """
    at = dict.fromkeys(lists, 0)
    left = {rank for rank, row in lists.items() if row}
    while left:
        here = {rank: tuple(lists[rank][at[rank]]) for rank in left}
        ready = {ranks for ranks in here.values() if all(here.get(rank) == ranks for rank in ranks)}
        if not ready:
            ranks = ", ".join(map(str, sorted(left)))
            raise PlanError(f"ranks {ranks} wait in a circle to open their channels; compile again")
        for rank in [rank for rank in left if here[rank] in ready]:
            at[rank] += 1
        left = {rank for rank in left if at[rank] < len(lists[rank])}
