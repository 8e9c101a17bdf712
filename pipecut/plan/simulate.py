"""Predict a step: replay the ranks' actions with costs and transfer times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipecut.plan.folder import PlanFolder
from pipecut.plan.schema import NEEDS, Action, Plan


@dataclass(frozen=True)
class Event:
    """An action of a rank, in seconds from the step's begin; F, B, I, W, SEND_F, SEND_B or REDUCE."""

    rank: int
    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """All events of a step, its seconds, and the part of it that ranks wait, over all ranks."""

    events: tuple[Event, ...]
    step_seconds: float
    bubble: float


@dataclass(frozen=True)
class Costs:
    """Seconds: forward and backward by stage, transfers by (F or B, receiving stage), reductions by rank, and of ties.

    A tie has the ranks that sum the gradient of a tied parameter together. `blocking` where a rank's own core carries what it
    sends and receives, as gloo on a CPU does. `weights` has the seconds of each stage's backward that W takes where it is split.
    """

    forward: Sequence[float]
    backward: Sequence[float]
    transfers: Mapping[tuple[str, int], float]
    reductions: Sequence[float]
    ties: Sequence[tuple[tuple[int, ...], float]] = ()
    blocking: bool = False
    weights: Sequence[float] = ()

    def seconds(self, kind: str, stage: int) -> float:
        """Of F, B, I or W."""
        if kind == "F":
            return self.forward[stage]
        later = self.weights[stage] if kind in "IW" else 0.0
        return later if kind == "W" else self.backward[stage] - later


def simulate(actions: Sequence[Sequence[Action]], costs: Costs) -> Timeline:
    """Sends are buffered and, but for `blocking` ones, cost the sender nothing; a channel carries one message at a time.

    A blocking one costs the receiver as much, unless it waits for it anyway.
    """
    clock = [0.0] * len(actions)
    at = [0] * len(actions)
    arrived: dict[tuple[str, int, int], float] = {}
    channel: dict[tuple[str, int], float] = {}
    busy = [0.0] * len(actions)
    events: list[Event] = []
    reducing: dict[int, tuple[Action, float]] = {}
    senders = {
        (a.kind[-1], a.stage + (1 if a.kind == "SEND_F" else -1), a.microbatch)
        for row in actions
        for a in row
        if a.kind.startswith("SEND")
    }
    moved = True
    while moved:
        moved = False
        for rank, row in enumerate(actions):
            while at[rank] < len(row):
                action = row[at[rank]]
                if action.kind == "W":
                    start, clock[rank] = clock[rank], clock[rank] + costs.seconds("W", action.stage)
                    busy[rank] += clock[rank] - start
                    events.append(Event(rank, action, start, clock[rank]))
                elif action.kind in NEEDS:
                    key = (NEEDS[action.kind], action.stage, action.microbatch)
                    if key in senders and key not in arrived:
                        break
                    seconds = costs.seconds(action.kind, action.stage)
                    arrival = arrived.get(key, 0.0)
                    start = max(clock[rank], arrival)
                    if costs.blocking and key in arrived:
                        start = max(arrival, clock[rank] + costs.transfers[key[:2]])
                    clock[rank] = start + seconds
                    busy[rank] += seconds
                    events.append(Event(rank, action, start, clock[rank]))
                elif action.kind.startswith("SEND"):
                    target = action.stage + (1 if action.kind == "SEND_F" else -1)
                    line = (action.kind[-1], target)
                    start = max(clock[rank], channel.get(line, 0.0))
                    channel[line] = arrived[(*line, action.microbatch)] = (
                        start + costs.transfers[line]
                    )
                    events.append(Event(rank, action, start, channel[line]))
                    clock[rank] = channel[line] if costs.blocking else clock[rank]
                elif action.kind == "REDUCE":
                    reducing[rank] = action, clock[rank]
                at[rank] += 1
                moved = True
    # Sums of gradients come last, and those of tied parameters first of them, in the same order on every rank.
    for ranks, seconds in costs.ties:
        end = max(clock[rank] for rank in ranks) + seconds
        for rank in ranks:
            clock[rank] = end
    for rank, (action, start) in reducing.items():
        clock[rank] += costs.reductions[rank]
        events.append(Event(rank, action, start, clock[rank]))
    step = max(clock, default=0.0)
    bubble = 1 - sum(busy) / (step * len(actions)) if step else 0.0
    return Timeline(tuple(events), step, bubble)


def transfers_over(
    left: int, sizes: Sequence[tuple[int, bool]], latency: float, bandwidth: float
) -> dict[tuple[str, int], float]:
    """Seconds over the boundary after stage `left`, both ways. `sizes`: each tensor's bytes, whether it needs a gradient."""
    sent, returned = sum(size for size, _ in sizes), sum(size for size, needs in sizes if needs)
    return {
        ("F", left + 1): latency + sent / bandwidth,
        ("B", left): latency + returned / bandwidth,
    }


def predicted(folder: PlanFolder) -> Timeline:
    """The step of the plan's own microbatches as the plan's costs have it."""
    return simulate(folder.actions, costs_of(folder.plan))


def costs_of(plan: Plan) -> Costs:
    """What the plan says of its stages and boundaries."""
    transfers: dict[tuple[str, int], float] = {}
    for boundary in plan.boundaries:
        sizes = [(t.bytes_for(plan.batch.microbatch), t.needs_grad) for t in boundary.tensors]
        transfers |= transfers_over(boundary.left, sizes, boundary.latency, boundary.bandwidth)
    backward = [s.backward_and_again for s in plan.stages]
    on_cpu = all(s.device_type == "cpu" for s in plan.stages)
    ranks = plan.pipeline_rank_of
    ties = [
        (tuple(dict.fromkeys(ranks[s] for s in tied.stages)), tied.reduce_seconds)
        for tied in plan.tied
    ]
    reductions = [0.0] * len(set(ranks.values()))
    for stage in plan.stages:
        reductions[stage.pipeline_rank] += stage.reduce_seconds
    weights = [s.weight_seconds for s in plan.stages]
    return Costs(
        [s.forward_seconds for s in plan.stages],
        backward,
        transfers,
        reductions,
        ties,
        on_cpu,
        weights,
    )
