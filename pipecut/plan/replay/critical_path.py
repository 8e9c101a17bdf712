"""The chain of a predicted step that decides its length: each event begins when the last one ends.

A compute waits for its rank or for a message, a message for its sender or for the channel, the sum
of gradients for its rank or, where parameters are tied, for the latest of the ranks that have them:

    rank 0   F 0.0 ---\\                      /--- B 0.0 --- REDUCE
    rank 1             \\--- F 1.0 --- B 1.0 /

Whatever makes one of these events longer makes the step longer by as much.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipecut.plan.actions import Compute, Hop, Message, Reduce, Send
from pipecut.plan.replay.simulate import Costs, Event, Timeline


@dataclass(frozen=True)
class CriticalPath:
    """Its events, from the first of the step to the last."""

    events: tuple[Event, ...]

    def __str__(self) -> str:
        """An event a line."""
        return "\n".join(
            f"{event.start:12.6g} {event.end:12.6g}  rank {event.rank}  {event.action}"
            for event in self.events
        )


def critical_path(timeline: Timeline, costs: Costs) -> CriticalPath:
    """The critical path of a step that was simulated with these costs."""
    if not timeline.events:
        return CriticalPath(())
    before = _Before(timeline.events, costs)
    event: Event | None = max(timeline.events, key=lambda event: event.end)
    path: list[Event] = []
    while event is not None:
        path.append(event)
        event = before.of(event)
    return CriticalPath(tuple(reversed(path)))


class _Before:
    """For every event the one whose end it waited for."""

    def __init__(self, events: Sequence[Event], costs: Costs) -> None:
        self.costs = costs
        # The last event before each that its rank had to finish, and the last of each rank.
        self.on_rank: dict[int, Event] = {}
        self.last: dict[int, Event] = {}
        self.on_hop: dict[Hop, list[Event]] = {}
        self.sends: dict[Message, Event] = {}
        for event in events:
            if event.rank in self.last:
                self.on_rank[id(event)] = self.last[event.rank]
            if isinstance(event.action, Send):
                self.sends[event.action.message] = event
                self.on_hop.setdefault(event.action.message.hop, []).append(event)
            if isinstance(event.action, Compute) or (
                isinstance(event.action, Send) and costs.blocking
            ):
                self.last[event.rank] = event
        self.earlier = dict(self._earlier_on_hops())

    def _earlier_on_hops(self) -> Iterator[tuple[Message, Event]]:
        for sends in self.on_hop.values():
            for earlier, send in zip(sends, sends[1:], strict=False):
                assert isinstance(send.action, Send)
                yield send.action.message, earlier

    def of(self, event: Event) -> Event | None:
        """None for an event that waited for nothing."""
        match event.action:
            case Compute() as compute:
                return self._before_compute(event, compute)
            case Send(message):
                return _later(self.on_rank.get(id(event)), self.earlier.get(message))
            case Reduce():
                return self.last.get(self._slowest_of_sums(event.rank))
            case _:
                return None

    def _before_compute(self, event: Event, compute: Compute) -> Event | None:
        own, message = self.on_rank.get(id(event)), compute.needs
        sent = self.sends.get(message) if message is not None else None
        if own is None or message is None or sent is None:
            return own or sent
        carrying = self.costs.transfers[message.hop] if self.costs.blocking else 0.0
        return sent if sent.end > own.end + carrying else own

    def _slowest_of_sums(self, rank: int) -> int:
        """The rank whose clock the sum of a rank waits for, through all sums of tied parameters."""
        clock = {at: event.end for at, event in self.last.items()}
        cause = {at: at for at in clock}
        for tied in self.costs.ties:
            latest = max(tied.ranks, key=lambda at: clock.get(at, 0.0))
            end, slowest = clock.get(latest, 0.0) + tied.seconds, cause.get(latest, latest)
            clock |= dict.fromkeys(tied.ranks, end)
            cause |= dict.fromkeys(tied.ranks, slowest)
        return cause.get(rank, rank)


def _later(first: Event | None, second: Event | None) -> Event | None:
    """The event that ends later; the first where both do."""
    if first is None or second is None:
        return first or second
    return second if second.end > first.end else first
