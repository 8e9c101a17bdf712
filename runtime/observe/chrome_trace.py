"""A step as a Chrome trace, which Perfetto opens: for every rank a predicted lane and a measured one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipecut.plan.actions import Action, Send, kind_of, microbatch_of, stage_of
from pipecut.plan.folder import PlanFolder
from pipecut.plan.replay.memory import memory_over_time
from pipecut.plan.replay.simulate import Timeline
from pipecut.plan.schema import Plan
from pipecut.runtime.engine.recorder import Record

PREDICTED, MEASURED = 0, 1


def trace_events(
    folder: PlanFolder, timeline: Timeline, measured: Mapping[int, Sequence[Record]]
) -> list[dict[str, Any]]:
    """Times in microseconds; measured ones begin where the first rank does. Ranks are processes, lanes threads.

    Each rank has a counter of the memory that is predicted.
    """
    plan = folder.plan
    events: list[dict[str, Any]] = []
    for rank in range(plan.ranks):
        events.append(
            {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank}"}}
        )
        for lane, name in ((PREDICTED, "predicted"), (MEASURED, "measured")):
            events.append(
                {"ph": "M", "name": "thread_name", "pid": rank, "tid": lane, "args": {"name": name}}
            )
    for event in timeline.events:
        if isinstance(event.action, Send):
            continue
        for rank in plan.layout.replica_ranks(event.rank):
            span = event.start, event.end - event.start
            kind = kind_of(event.action)
            events.append(_event(plan, event.action, kind, span, (rank, PREDICTED)))
    for pipeline_rank, curve in enumerate(memory_over_time(folder, timeline)):
        for rank in plan.layout.replica_ranks(pipeline_rank):
            counter: dict[str, Any] = {"ph": "C", "name": "predicted memory", "pid": rank}
            events += [
                {
                    **counter,
                    "ts": point.seconds * 1e6,
                    "args": {"MiB": round(point.bytes / 2**20, 3)},
                }
                for point in curve
            ]
    origin = min((record.start for records in measured.values() for record in records), default=0.0)
    for rank, records in measured.items():
        for record in records:
            span = record.start - origin, record.end - record.start
            events.append(_event(plan, record.action, _kind(record), span, (rank, MEASURED)))
    return events


def _kind(record: Record) -> str:
    if record.waited:
        return "WAIT"
    return "SEND" if isinstance(record.action, Send) else kind_of(record.action)


def _event(
    plan: Plan, action: Action, kind: str, span: tuple[float, float], where: tuple[int, int]
) -> dict[str, Any]:
    stage, microbatch = stage_of(action), microbatch_of(action)
    label = kind if stage is None else f"{kind} {stage}.{microbatch}"
    times = {"ts": span[0] * 1e6, "dur": span[1] * 1e6, "pid": where[0], "tid": where[1]}
    about: dict[str, Any] = {}
    if stage is not None:
        modules = ", ".join(plan.stages[stage].modules)
        about = {"stage": stage, "microbatch": microbatch, "modules": modules}
    return {"ph": "X", "name": label, "cat": kind, **times, "args": about}


def write_trace(
    path: Path, folder: PlanFolder, timeline: Timeline, measured: Mapping[int, Sequence[Record]]
) -> None:
    """One JSON file."""
    path.write_text(
        json.dumps(
            {"traceEvents": trace_events(folder, timeline, measured), "displayTimeUnit": "ms"}
        )
    )
