"""A step as a Chrome trace, which Perfetto opens: each rank has a predicted and a measured lane."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipecut.plan.actions import Action, Send, kind_of, microbatch_of, stage_of
from pipecut.plan.folder import PlanFolder
from pipecut.plan.replay.memory import memory_over_time
from pipecut.plan.replay.simulate import Timeline
from pipecut.plan.schema import Plan

if TYPE_CHECKING:
    # Which has torch, that `pipecut timeline` does without.
    from pipecut.runtime.engine.recorder import Record

PREDICTED, MEASURED = 0, 1


def trace_events(
    folder: PlanFolder, timeline: Timeline, measured: Mapping[int, Sequence["Record"]]
) -> list[dict[str, Any]]:
    """Ranks are processes, and their lanes threads; each rank counts its predicted memory.

    Times are in microseconds; measured ones begin where the first rank does.
    """
    return [
        *_names(folder.plan),
        *_predicted(folder.plan, timeline),
        *_memory(folder, timeline),
        *_measured(folder.plan, measured),
    ]


def _names(plan: Plan) -> Iterator[dict[str, Any]]:
    for rank in range(plan.ranks):
        name = {"name": f"rank {rank}"}
        yield {"ph": "M", "name": "process_name", "pid": rank, "args": name}
        for lane, label in ((PREDICTED, "predicted"), (MEASURED, "measured")):
            name = {"name": label}
            yield {"ph": "M", "name": "thread_name", "pid": rank, "tid": lane, "args": name}


def _predicted(plan: Plan, timeline: Timeline) -> Iterator[dict[str, Any]]:
    for event in timeline.events:
        if not isinstance(event.action, Send):
            for rank in plan.layout.replica_ranks(event.rank):
                span = _Span(rank, PREDICTED, event.start, event.end)
                yield _event(plan, event.action, kind_of(event.action), span)


def _memory(folder: PlanFolder, timeline: Timeline) -> Iterator[dict[str, Any]]:
    for pipeline_rank, curve in enumerate(memory_over_time(folder, timeline)):
        for rank in folder.plan.layout.replica_ranks(pipeline_rank):
            for point in curve:
                yield {
                    "ph": "C",
                    "name": "predicted memory",
                    "pid": rank,
                    "ts": point.seconds * 1e6,
                    "args": {"MiB": round(point.bytes / 2**20, 3)},
                }


def _measured(plan: Plan, measured: Mapping[int, Sequence["Record"]]) -> Iterator[dict[str, Any]]:
    origin = min((record.start for records in measured.values() for record in records), default=0.0)
    for rank, records in measured.items():
        for record in records:
            span = _Span(rank, MEASURED, record.start - origin, record.end - origin)
            yield _event(plan, record.action, _kind(record), span)


def _kind(record: "Record") -> str:
    if record.waited:
        return "WAIT"
    return "SEND" if isinstance(record.action, Send) else kind_of(record.action)


@dataclass(frozen=True)
class _Span:
    """A place in the trace: a lane of a rank, from one second to another."""

    rank: int
    lane: int
    start: float
    end: float


def _event(plan: Plan, action: Action, kind: str, span: _Span) -> dict[str, Any]:
    stage, microbatch = stage_of(action), microbatch_of(action)
    details: dict[str, Any] = {}
    if stage is not None:
        modules = ", ".join(plan.stages[stage].modules)
        details = {"stage": stage, "microbatch": microbatch, "modules": modules}
    return {
        "ph": "X",
        "name": kind if stage is None else f"{kind} {stage}.{microbatch}",
        "cat": kind,
        "ts": span.start * 1e6,
        "dur": (span.end - span.start) * 1e6,
        "pid": span.rank,
        "tid": span.lane,
        "args": details,
    }


def write_trace(
    path: Path, folder: PlanFolder, timeline: Timeline, measured: Mapping[int, Sequence["Record"]]
) -> None:
    """One JSON file."""
    path.write_text(
        json.dumps(
            {"traceEvents": trace_events(folder, timeline, measured), "displayTimeUnit": "ms"}
        )
    )
