"""The view Timeline: what every rank does in the predicted step, and did in a measured one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from pipecut.plan.actions import Compute, Send, kind_of, microbatch_of, stage_of
from pipecut.plan.replay.critical_path import critical_path
from pipecut.plan.replay.simulate import Event, costs_of
from pipecut.view.columns import Column, column
from pipecut.view.sources import Sources, Span

# An event's kind is its position here; SEND is a measured one, whose direction is not recorded.
KINDS = ("F", "B", "I", "W", "REDUCE", "SEND_F", "SEND_B", "SEND", "WAIT")
COMPUTES = ("F", "B", "I", "W")
# Times are counted in parts of the longest step.
TICKS = 2**32 - 1


@dataclass(frozen=True)
class Lanes:
    """Events lane by lane: those of lane i are `first[i]` to `first[i + 1]`, by their start.

    `kind` is a position in KINDS, `start` and `end` are ticks, `stage` and `microbatch` are counted
    from 1: 0 where an event has none. `critical` is 1 for the events of the critical path.
    """

    first: tuple[int, ...]
    kind: Column
    stage: Column
    microbatch: Column
    start: Column
    end: Column
    critical: Column


@dataclass(frozen=True)
class PathPart:
    """Seconds that events of a kind take of the critical path, and on which stage, if on one."""

    kind: str
    stage: int | None
    seconds: float


@dataclass(frozen=True)
class PredictedStep:
    """A lane per pipeline rank, of what it computes and of what it sends.

    `bubbles` has the fraction of the step that each rank waits; `path` is what the critical path is
    made of, the longest part first.
    """

    seconds: float
    bubbles: tuple[float, ...]
    computes: Lanes
    sends: Lanes
    path: tuple[PathPart, ...]


@dataclass(frozen=True)
class MeasuredStep:
    """The same of a run, with a lane per rank; among its computes are its waits."""

    seconds: float
    bubbles: tuple[float, ...]
    computes: Lanes
    sends: Lanes


@dataclass(frozen=True)
class StepView:
    """Both steps. `tick` is seconds; `ranks` has the ranks of each pipeline rank's replicas."""

    kinds: tuple[str, ...]
    tick: float
    ranks: tuple[tuple[int, ...], ...]
    predicted: PredictedStep
    measured: MeasuredStep | None


@dataclass(frozen=True)
class _Mark:
    """An event of either step, in seconds."""

    kind: str
    stage: int | None
    microbatch: int | None
    start: float
    end: float
    critical: bool = False


def timeline_of(sources: Sources) -> StepView:
    """The lanes of a plan's predicted step, and of a run where there is a trace of one."""
    layout = sources.plan.layout
    longest = max([sources.timeline.step_seconds, *(span.end for span in sources.spans)])
    tick = longest / TICKS if longest else 1.0
    return StepView(
        kinds=KINDS,
        tick=tick,
        ranks=tuple(tuple(layout.replica_ranks(p)) for p in range(layout.pipeline_ranks)),
        predicted=_predicted(sources, tick),
        measured=_measured(sources.spans, sources.plan.ranks, tick) if sources.spans else None,
    )


def _predicted(sources: Sources, tick: float) -> PredictedStep:
    timeline = sources.timeline
    path = critical_path(timeline, costs_of(sources.plan)).events
    on_path = set(map(id, path))
    count = sources.plan.layout.pipeline_ranks
    computes: list[list[_Mark]] = [[] for _ in range(count)]
    sends: list[list[_Mark]] = [[] for _ in range(count)]
    for event in timeline.events:
        lanes = sends if isinstance(event.action, Send) else computes
        lanes[event.rank].append(_mark(event, id(event) in on_path))
    return PredictedStep(
        timeline.step_seconds,
        _bubbles(computes, timeline.step_seconds),
        _lanes(computes, tick),
        _lanes(sends, tick),
        _parts(path),
    )


def _mark(event: Event, critical: bool) -> _Mark:
    action = event.action
    return _Mark(
        kind_of(action), stage_of(action), microbatch_of(action), event.start, event.end, critical
    )


def _measured(spans: Sequence[Span], ranks: int, tick: float) -> MeasuredStep:
    computes: list[list[_Mark]] = [[] for _ in range(ranks)]
    sends: list[list[_Mark]] = [[] for _ in range(ranks)]
    for span in spans:
        lanes = sends if span.kind == "SEND" else computes
        mark = _Mark(span.kind, span.stage, span.microbatch, span.start, span.end)
        lanes[span.rank].append(mark)
    seconds = max(span.end for span in spans)
    return MeasuredStep(
        seconds, _bubbles(computes, seconds), _lanes(computes, tick), _lanes(sends, tick)
    )


def _bubbles(lanes: Sequence[Sequence[_Mark]], step: float) -> tuple[float, ...]:
    """Of each lane, the fraction of the step in which it computes nothing."""
    return tuple(
        1 - sum(mark.end - mark.start for mark in lane if mark.kind in COMPUTES) / (step or 1.0)
        for lane in lanes
    )


def _lanes(lanes: Sequence[Sequence[_Mark]], tick: float) -> Lanes:
    marks = [mark for lane in lanes for mark in sorted(lane, key=lambda mark: mark.start)]
    first = [0]
    for lane in lanes:
        first.append(first[-1] + len(lane))

    def each(number: Callable[[_Mark], int]) -> Column:
        return column(map(number, marks))

    in_ticks = partial(_ticks, tick)
    return Lanes(
        first=tuple(first),
        kind=each(lambda mark: KINDS.index(mark.kind)),
        stage=each(lambda mark: _counted(mark.stage)),
        microbatch=each(lambda mark: _counted(mark.microbatch)),
        start=each(lambda mark: in_ticks(mark.start)),
        end=each(lambda mark: in_ticks(mark.end)),
        critical=each(lambda mark: int(mark.critical)),
    )


def _ticks(tick: float, seconds: float) -> int:
    return min(TICKS, max(0, round(seconds / tick)))


def _counted(number: int | None) -> int:
    return 0 if number is None else number + 1


def _parts(path: Iterable[Event]) -> tuple[PathPart, ...]:
    seconds: dict[tuple[str, int | None], float] = {}
    reached = 0.0
    for event in path:
        computes = isinstance(event.action, Compute)
        key = kind_of(event.action), stage_of(event.action) if computes else None
        # A sum of tied gradients begins before the rank it waits for is done.
        seconds[key] = seconds.get(key, 0.0) + event.end - max(reached, event.start)
        reached = event.end
    parts = [PathPart(kind, stage, taken) for (kind, stage), taken in seconds.items()]
    return tuple(sorted(parts, key=lambda part: -part.seconds))
