"""Sources of a page, made by hand."""

import json
from pathlib import Path
from typing import Any

from pipecut.plan.schema.explanation import TriedCandidate
from pipecut.view.sources import Sources
from tests.graphs import made_folder

TRIED = TriedCandidate(
    stages=2,
    replicas=1,
    microbatch=2,
    microbatches=4,
    schedule="1f1b",
    step_seconds=15.0,
    bubble=0.2,
    recomputing=0,
    chosen=True,
    why="placed",
)


def made_sources(**fields: Any) -> Sources:
    """The plan of two stages that `made_folder` makes, with no run beside it."""
    return Sources(made_folder(**fields))


def made_row(rank: int, stage: int, **fields: Any) -> dict[str, Any]:
    """A row of a report."""
    usual = {"forward": 1.5, "backward": 2.5, "wait": 1.0, "send": 0.5, "memory": 2**20}
    return {"rank": rank, "stage": stage} | usual | fields


def write_report(path: Path, **fields: Any) -> Path:
    """A report of the plan of `made_sources`, which predicts 15 s."""
    rows = [made_row(0, 0), made_row(1, 1)]
    report = {
        "predicted_step": 15.0,
        "measured_step": 16.5,
        "predicted": rows,
        "measured": rows,
        "microbatch": 2,
        "operators": {},
    }
    path.write_text(json.dumps(report | fields))
    return path


def made_event(rank: int, kind: str, stage: int, microbatch: int, **fields: Any) -> dict[str, Any]:
    """A measured event of a trace: half a second from second 1 on."""
    return {
        "ph": "X",
        "name": f"{kind} {stage}.{microbatch}",
        "cat": kind,
        "ts": 1e6,
        "dur": 5e5,
        "pid": rank,
        "tid": 1,
        "args": {"stage": stage, "microbatch": microbatch, "modules": "layers"},
    } | fields


def write_trace(path: Path, *events: dict[str, Any]) -> Path:
    """A trace of these events, after the names of its lanes."""
    names = {"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "rank 0"}}
    path.write_text(json.dumps({"traceEvents": [names, *events], "displayTimeUnit": "ms"}))
    return path
