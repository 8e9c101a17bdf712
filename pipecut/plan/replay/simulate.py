"""Predict a step: replay the ranks' actions with costs and transfer times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipecut.device.types import type_of
from pipecut.plan.actions import Action, Compute, Direction, Hop, Message, Op, Reduce, Send
from pipecut.plan.folder import PlanFolder
from pipecut.plan.schema import Plan, Sizes


class Event(NamedTuple):
    """What a rank computes, sends or reduces, in seconds from the step's begin."""

    rank: int
    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """All events of a step, its seconds, and the fraction of it that ranks wait, over all ranks."""

    events: tuple[Event, ...]
    step_seconds: float
    bubble: float

    def __str__(self) -> str:
        """Start and end of every event, rank by rank."""
        lines = [f"step {self.step_seconds:.6g} s, bubble {self.bubble:.1%}"]
        for rank in sorted({event.rank for event in self.events}):
            lines.append(f"rank {rank}")
            events = [event for event in self.events if event.rank == rank]
            for event in sorted(events, key=lambda event: (event.start, event.end)):
                lines.append(f"{event.start:12.6g} {event.end:12.6g}  {event.action}")
        return "\n".join(lines)


@dataclass(frozen=True)
class TiedSum:
    """The sum of a tied parameter's gradient: the pipeline ranks that have it, and its seconds."""

    ranks: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Costs:
    """Seconds: forward and backward by stage, transfers by hop, reductions by pipeline rank.

    `blocking` where a rank's own core carries what it sends and receives, as gloo on a CPU does.
    `weights` has the seconds of each stage's backward that W takes where it is split.
    `by_microbatch` has each microbatch's own where they differ.
    """

    forward: Sequence[float]
    backward: Sequence[float]
    transfers: Mapping[Hop, float]
    reductions: Sequence[float]
    ties: Sequence[TiedSum] = ()
    blocking: bool = False
    weights: Sequence[float] = ()
    by_microbatch: Sequence["Costs"] = ()

    def of(self, microbatch: int) -> "Costs":
        """The costs of a microbatch: its own, or those that all have."""
        return self.by_microbatch[microbatch] if self.by_microbatch else self

    def seconds(self, op: Op, stage: int) -> float:
        """Seconds of a stage's F, B, I or W."""
        match op:
            case "F":
                return self.forward[stage]
            case "B":
                return self.backward[stage]
            case "I":
                return self.backward[stage] - self.weights[stage]
            case "W":
                return self.weights[stage]


def simulate(actions: Sequence[Sequence[Action]], costs: Costs) -> Timeline:
    """Replay all ranks. A channel carries one message at a time.

    Sends are buffered and cost the sender nothing, unless they are `blocking`: then they cost the
    sender, and the receiver as much, unless it waits for the message anyway.
    """
    replay = _Replay(actions, costs)
    while any([replay.advance(rank) for rank in range(len(actions))]):
        pass
    replay.sum_gradients()
    step = max(replay.clock, default=0.0)
    bubble = 1 - sum(replay.busy) / (step * len(actions)) if step else 0.0
    return Timeline(tuple(replay.events), step, bubble)


# A message as a tuple, which is quicker to look up than a Message: direction, receiver, microbatch.
_Key = tuple[Direction, int, int]


class _Replay:
    """Where every rank is, its clock and seconds of compute so far, and what has arrived when."""

    def __init__(self, rows: Sequence[Sequence[Action]], costs: Costs) -> None:
        self.rows, self.costs = rows, costs
        self.at = [0] * len(rows)
        self.clock = [0.0] * len(rows)
        self.busy = [0.0] * len(rows)
        self.events: list[Event] = []
        self.arrived: dict[_Key, float] = {}
        self.hop_free: dict[tuple[Direction, int], float] = {}
        self.reducing: dict[int, tuple[Reduce, float]] = {}
        self.transfers = {(h.direction, h.receiver): t for h, t in costs.transfers.items()}
        self.seconds: dict[tuple[Op, int, int], float] = {}
        # Messages between stages of one rank are not sent: nothing waits for them.
        self.sent = {_key_of(a.message) for row in rows for a in row if type(a) is Send}

    def advance(self, rank: int) -> bool:
        """Replay a rank as far as it can go; whether it moved."""
        begin, row = self.at[rank], self.rows[rank]
        at = begin
        while at < len(row) and self._do(rank, row[at]):
            at += 1
        self.at[rank] = at
        return at > begin

    def _do(self, rank: int, action: Action) -> bool:
        """Replay an action; False where what it needs has not arrived."""
        if isinstance(action, Compute):
            return self._compute(rank, action)
        if isinstance(action, Send):
            self._send(rank, action)
        elif isinstance(action, Reduce):
            self.reducing[rank] = action, self.clock[rank]
        return True

    def _compute(self, rank: int, action: Compute) -> bool:
        op, stage, start = action.op, action.stage, self.clock[rank]
        # What W takes is on its rank.
        key: _Key | None = None
        if op != "W":
            key = "F" if op == "F" else "B", stage, action.microbatch
        if key is not None and key in self.sent:
            arrival = self.arrived.get(key)
            if arrival is None:
                return False
            carrying = self._transfer(key) if self.costs.blocking else 0.0
            start = max(arrival, start + carrying)
        own = action.microbatch if self.costs.by_microbatch else 0
        seconds = self.seconds.get((op, stage, own))
        if seconds is None:
            seconds = self.seconds[op, stage, own] = self.costs.of(own).seconds(op, stage)
        end = self.clock[rank] = start + seconds
        self.busy[rank] += seconds
        self.events.append(Event(rank, action, start, end))
        return True

    def _send(self, rank: int, action: Send) -> None:
        key = _key_of(action.message)
        hop = key[:2]
        start = max(self.clock[rank], self.hop_free.get(hop, 0.0))
        end = start + self._transfer(key)
        self.hop_free[hop] = self.arrived[key] = end
        self.events.append(Event(rank, action, start, end))
        if self.costs.blocking:
            self.clock[rank] = end

    def _transfer(self, key: _Key) -> float:
        """Seconds of a message."""
        if self.costs.by_microbatch:
            return self.costs.of(key[2]).transfers[Hop(key[0], key[1])]
        return self.transfers[key[:2]]

    def sum_gradients(self) -> None:
        """Sums come last: those of tied parameters first, in the same order on every rank."""
        for tied in self.costs.ties:
            end = max(self.clock[rank] for rank in tied.ranks) + tied.seconds
            for rank in tied.ranks:
                self.clock[rank] = end
        for rank, (action, start) in self.reducing.items():
            self.clock[rank] += self.costs.reductions[rank]
            self.events.append(Event(rank, action, start, self.clock[rank]))


def _key_of(message: Message) -> _Key:
    return message.direction, message.receiver, message.microbatch


@dataclass(frozen=True)
class BoundaryTraffic:
    """Bytes that a microbatch takes over a boundary, forward and backward, and the link's speed."""

    activations: int
    gradients: int
    latency: float
    bandwidth: float

    def seconds_after(self, stage: int) -> dict[Hop, float]:
        """Seconds over the boundary after a stage, by direction."""
        return {
            Hop("F", stage + 1): self.latency + self.activations / self.bandwidth,
            Hop("B", stage): self.latency + self.gradients / self.bandwidth,
        }


def predicted(folder: PlanFolder) -> Timeline:
    """A step of the plan's own size, with the costs that the plan has."""
    return simulate(folder.actions, costs_of(folder.plan))


def costs_of(plan: Plan) -> Costs:
    """The costs of a plan's stages and boundaries."""
    stages, layout = plan.stages, plan.layout
    reductions = [0.0] * layout.pipeline_ranks
    for stage in stages:
        reductions[stage.pipeline_rank] += stage.reduce_seconds
    ties = []
    for tied in plan.tied:
        ranks = dict.fromkeys(layout.pipeline_rank_of[stage] for stage in tied.stages)
        ties.append(TiedSum(tuple(ranks), tied.reduce_seconds))
    return Costs(
        forward=[stage.forward_seconds for stage in stages],
        backward=[stage.backward_with_recompute for stage in stages],
        transfers=transfers_of(plan, plan.batch.largest),
        reductions=reductions,
        ties=ties,
        blocking=all(type_of(stage.device_type).host_carries for stage in stages),
        weights=[stage.weight_seconds for stage in stages],
    )


def transfers_of(plan: Plan, sizes: Sizes) -> dict[Hop, float]:
    """Seconds of each message of a microbatch of such sizes."""
    transfers: dict[Hop, float] = {}
    for boundary in plan.boundaries:
        tensors = boundary.tensors
        activations = sum(tensor.bytes_for(sizes) for tensor in tensors)
        gradients = sum(tensor.bytes_for(sizes) for tensor in tensors if tensor.needs_grad)
        traffic = BoundaryTraffic(activations, gradients, boundary.latency, boundary.bandwidth)
        transfers |= traffic.seconds_after(boundary.left)
    return transfers
