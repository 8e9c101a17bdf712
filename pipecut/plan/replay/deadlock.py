"""Prove that no schedule hangs, without knowing how it was made.

Ranks are stepped until all are done or none can move. What the step must withstand, a rule each:

- *order*: a channel's messages are received in the order they are sent in. NCCL ignores tags, so in
  another order one tensor would silently take the place of another.
- *rendezvous*: a send keeps its rank until the receive is posted. What cannot deadlock so cannot
  with buffered sends either.
- *first use*: a rank that uses a channel first waits until the other rank does, unless the channel
  was opened before.
- *occupied*: a message keeps both of its ranks from anything else until they have met, as on a GPU
  where anything synchronises the whole device, such as its allocator. What withstands this
  withstands rendezvous, too.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest

from pipecut.errors import PlanError
from pipecut.plan.actions import Action, Compute, Message, Recv, Send, stage_of
from pipecut.plan.channels import Channel
from pipecut.plan.replay.traffic import Traffic

Rows = Sequence[Sequence[Action]]


def check_order(traffic: Traffic, rows: Rows) -> int:
    """Count the messages, each of which is received in its turn. Raises PlanError."""
    sent: dict[tuple[int, int], list[Message]] = defaultdict(list)
    received: dict[tuple[int, int], list[Message]] = defaultdict(list)
    home = traffic.pipeline_rank_of
    for rank, row in enumerate(rows):
        check_ranks(traffic, rank, row)
        for action in row:
            message = traffic.message(action)
            if message is not None:
                lists = sent if isinstance(action, Send) else received
                lists[home[message.sender], home[message.receiver]].append(message)
    for ranks in sorted({*sent, *received}):
        _check_same_order(Channel(*ranks), sent[ranks], received[ranks])
    return sum(map(len, sent.values()))


def check_ranks(traffic: Traffic, rank: int, row: Sequence[Action]) -> None:
    """Raises PlanError where a rank has an action of a stage that is on another one."""
    for action in row:
        _check_rank(traffic, rank, action)


def _check_rank(traffic: Traffic, rank: int, action: Action) -> None:
    stage = stage_of(action)
    if stage is not None and traffic.pipeline_rank_of.get(stage) != rank:
        home = traffic.pipeline_rank_of.get(stage)
        where = f"stage {stage} is on rank {home}" if home is not None else "no rank has that stage"
        raise PlanError(f"rank {rank} has '{action}', but {where}; compile again")


def _check_same_order(
    channel: Channel, sent: Sequence[Message], received: Sequence[Message]
) -> None:
    for number, (outgoing, incoming) in enumerate(zip_longest(sent, received)):
        if outgoing != incoming:
            send = f"'{Send(outgoing)}'" if outgoing is not None else "nothing"
            receive = f"'{Recv(incoming)}'" if incoming is not None else "nothing"
            raise PlanError(
                f"message {number} from {channel}: rank {channel.source} sends {send}, "
                f"rank {channel.target} receives {receive}. NCCL pairs sends and receives by "
                "nothing but their order: post receives in the order of the sends, or compile again"
            )


def check_steps(
    traffic: Traffic, rows: Rows, opened: Collection[Channel], occupied: bool = False
) -> None:
    """Step until all ranks are done. `opened` are the channels that were used before.

    `occupied` adds the last of the rules. Raises PlanError that names where each rank stands.
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
            " on a GPU that synchronises, where a posted receive is in the way "
            "until its message comes"
            if occupied
            else ""
        )
        raise PlanError(f"the schedule deadlocks{why}: {where}; compile again")


class _Stepping:
    """Where every rank is."""

    def __init__(self, traffic: Traffic, rows: Rows, opened: set[Channel], occupied: bool) -> None:
        self.traffic, self.rows, self.opened, self.occupied = traffic, rows, opened, occupied
        self.at = [0] * len(rows)
        # Forwards that are done, by stage and microbatch.
        self.forwarded: set[tuple[int, int]] = set()
        # Messages: made by a compute, sent, and received or waited for.
        self.made: set[Message] = set()
        self.sent: set[Message] = set()
        self.posted: set[Message] = set()

    def current(self, rank: int) -> Action | None:
        """The action that a rank is at; None when it is done."""
        return self.rows[rank][self.at[rank]] if self.at[rank] < len(self.rows[rank]) else None

    def advance(self, rank: int) -> bool:
        """Step a rank as far as it can go; whether it moved."""
        begin = self.at[rank]
        while (action := self.current(rank)) is not None and self._ready(action):
            self._do(action)
            self.at[rank] += 1
        return self.at[rank] > begin

    def _ready(self, action: Action) -> bool:
        message = self.traffic.message(action)
        if message is not None:
            return self._meets(action, message)
        match action:
            case Compute("F"):
                return self._arrived(action)
            case Compute("B" | "I", stage, microbatch):
                return (stage, microbatch) in self.forwarded and self._arrived(action)
            case Compute("W", stage, microbatch):
                return Message("B", stage - 1, microbatch) in self.made
        return True

    def _arrived(self, compute: Compute) -> bool:
        """Whether what a compute needs is there: sent, or made on this rank."""
        message = compute.needs
        assert message is not None
        if self.traffic.crosses(message):
            return message in self.sent
        ranks = self.traffic.pipeline_rank_of
        same_rank = ranks.get(message.sender) == ranks.get(message.receiver)
        return not same_rank or message in self.made

    def _meets(self, action: Action, message: Message) -> bool:
        sends = isinstance(action, Send)
        if sends and message not in self.made:
            raise PlanError(f"'{action}' comes before what it sends is computed; compile again")
        channel = self.traffic.channel(message)
        partner = self.current(channel.target if sends else channel.source)
        partners_message = self.traffic.message(partner) if partner is not None else None
        if channel not in self.opened:
            if partners_message is None or self.traffic.channel(partners_message) != channel:
                return False
            self.opened.add(channel)
        if not self.occupied:
            return not sends or message in self.posted
        # The rank that comes second finds that the first has met it.
        met = message in (self.posted if sends else self.sent)
        return partners_message == message or met

    def _do(self, action: Action) -> None:
        match action:
            case Send(message):
                self.sent.add(message)
            case Recv(message):
                self.posted.add(message)
            case Compute("F", stage, microbatch):
                self.forwarded.add((stage, microbatch))
        if isinstance(action, Compute) and action.makes is not None:
            self.made.add(action.makes)


def check_opening(groups_by_rank: Mapping[int, Sequence[Sequence[int]]]) -> None:
    """Each rank opens its groups, given by their ranks, in the order of its list.

    A group opens once all its ranks have come to it, and keeps them until then. Raises PlanError.
    """
    opened = dict.fromkeys(groups_by_rank, 0)
    came: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
    moving = list(groups_by_rank)
    while moving:
        rank = moving.pop()
        if opened[rank] == len(groups_by_rank[rank]):
            continue
        group = tuple(groups_by_rank[rank][opened[rank]])
        came[group].add(rank)
        if len(came[group]) >= len(group) and came[group].issuperset(group):
            for member in came.pop(group):
                opened[member] += 1
                moving.append(member)
    waiting = [rank for rank, groups in groups_by_rank.items() if opened[rank] < len(groups)]
    if waiting:
        ranks = ", ".join(map(str, sorted(waiting)))
        raise PlanError(f"ranks {ranks} wait in a circle to open their channels; compile again")
