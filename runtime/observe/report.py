"""Predicted and measured side by side: seconds of every stage, and the likely cause of the largest error."""

import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipecut.plan.actions import Compute, Op, Send, stage_of
from pipecut.plan.folder import PlanFolder
from pipecut.plan.replay.simulate import predicted
from pipecut.runtime.engine.recorder import Record

# Below this nothing is worth a cause.
SLIGHT = 0.05
BACKWARD: tuple[Op, ...] = ("B", "I", "W")


@dataclass(frozen=True)
class Row:
    """Of a stage on a rank: seconds a microbatch forward and backward, seconds a step that it waits, and of its sends.

    `memory` is the rank's bytes at the peak.
    """

    rank: int
    stage: int
    forward: float
    backward: float
    wait: float
    send: float
    memory: int


@dataclass(frozen=True)
class Report:
    """The step's seconds, predicted and measured, and rows of both in the same order.

    `operators` has, by device kind and name, forward and backward seconds that sum to what the stages took.
    """

    predicted_step: float
    measured_step: float
    predicted: tuple[Row, ...]
    measured: tuple[Row, ...]
    microbatch: int
    operators: dict[str, dict[str, tuple[float, float]]]


def report_of(
    folder: PlanFolder,
    steps: Mapping[int, Sequence[Sequence[Record]]],
    step_seconds: float,
    peaks: Mapping[int, int],
) -> Report:
    """Medians over the steps that each rank recorded; `step_seconds` is the measured step, `peaks` each rank's bytes."""
    plan, timeline = folder.plan, predicted(folder)
    expected, found = [], []
    for rank, recorded in sorted(steps.items()):
        pipeline_rank = plan.layout.place(rank).pipeline_rank
        for stage in plan.stages_on(rank):
            own = [
                e
                for e in timeline.events
                if e.rank == pipeline_rank and stage_of(e.action) == stage.index
            ]
            sends = [e.end - e.start for e in own if isinstance(e.action, Send)]
            backward = stage.backward_and_again
            busy = plan.microbatches * (stage.forward_seconds + backward)
            last = max((e.end for e in own if isinstance(e.action, Compute)), default=0.0)
            waits = max(0.0, last - busy)
            expected.append(
                Row(
                    rank,
                    stage.index,
                    stage.forward_seconds,
                    backward,
                    waits,
                    sum(sends),
                    stage.peak_bytes,
                )
            )
            per_step = [
                [r for r in records if stage_of(r.action) == stage.index] for records in recorded
            ]
            found.append(
                Row(
                    rank,
                    stage.index,
                    _computing("F", per_step) / plan.microbatches,
                    sum(_computing(op, per_step) for op in BACKWARD) / plan.microbatches,
                    _seconds(lambda r: r.waited, per_step),
                    _seconds(lambda r: isinstance(r.action, Send), per_step),
                    peaks.get(rank, 0),
                )
            )
    operators = _operators(folder, expected, found)
    return Report(
        timeline.step_seconds,
        step_seconds,
        tuple(expected),
        tuple(found),
        plan.batch.microbatch,
        operators,
    )


def _computing(op: Op, steps: list[list[Record]]) -> float:
    """Seconds of an operation, without its waiting, in the median step."""

    def computes(record: Record) -> bool:
        action = record.action
        return isinstance(action, Compute) and action.op == op and not record.waited

    return _seconds(computes, steps)


def _seconds(counts: Callable[[Record], bool], steps: list[list[Record]]) -> float:
    """Seconds of the records that count, in the median step."""
    return _median([sum(r.end - r.start for r in records if counts(r)) for records in steps])


def _operators(
    folder: PlanFolder, expected: list[Row], found: list[Row]
) -> dict[str, dict[str, tuple[float, float]]]:
    """The plan's costs of single operators, scaled so that each stage takes what it took."""
    result: dict[str, dict[str, tuple[float, float]]] = {}
    for stage in folder.plan.stages:
        pairs = [(a, b) for a, b in zip(expected, found, strict=True) if a.stage == stage.index]
        again = stage.forward_seconds if stage.recompute else 0.0
        forward = _median([b.forward for _, b in pairs]) / (stage.forward_seconds or 1.0)
        backward = _median([max(0.0, b.backward - again * forward) for _, b in pairs]) / (
            stage.backward_seconds or 1.0
        )
        for operator in folder.graph.operators:
            if stage.index in operator.placed_on:
                alone = (
                    operator.forward_seconds[stage.device],
                    operator.backward_seconds[stage.device],
                )
                result.setdefault(stage.device, {})[operator.name] = (
                    alone[0] * forward,
                    alone[1] * backward,
                )
    return result


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0


def lines(report: Report, costs_measured: bool) -> list[str]:
    """The table, and what to do about the largest error."""
    text = [
        "ms and MiB, predicted/measured; wait and sends of a step",
        "stage rank      forward           backward              wait             sends            memory",
    ]
    for a, b in zip(report.predicted, report.measured, strict=True):
        pairs = [
            (a.forward, b.forward),
            (a.backward, b.backward),
            (a.wait, b.wait),
            (a.send, b.send),
        ]
        memory = (
            f"{a.memory / 2**20:8.1f}/{b.memory / 2**20:8.1f}"
            if b.memory
            else f"{a.memory / 2**20:8.1f}/       -"
        )
        text.append(
            f"{a.stage:4d} {a.rank:4d}  "
            + " ".join(f"{x * 1e3:8.2f}/{y * 1e3:8.2f}" for x, y in pairs)
            + f" {memory}"
        )
    error = report.predicted_step / report.measured_step - 1 if report.measured_step else 0.0
    text.append(
        f"step   predicted {report.predicted_step * 1e3:.1f} ms, measured {report.measured_step * 1e3:.1f} ms, {error:+.1%}"
    )
    text.append(_cause(report, error, costs_measured))
    return text


def _cause(report: Report, error: float, costs_measured: bool) -> str:
    compute = (
        sum(r.forward + r.backward for r in report.predicted),
        sum(r.forward + r.backward for r in report.measured),
    )
    if abs(error) <= SLIGHT:
        return "the prediction holds"
    apart = compute[0] / compute[1] - 1 if compute[1] else 0.0
    if abs(apart) > abs(error) / 2:
        cores = os.cpu_count() or 1
        shared = (
            f", and {len(report.measured)} ranks share {cores} cores"
            if len(report.measured) > cores
            else ""
        )
        remedy = (
            "compile again with --costs measured:FILE"
            if costs_measured
            else "run pipecut profile, then compile again"
        )
        return f"most of it is compute, predicted {apart:+.1%} off{shared}; {remedy}"
    return "most of it is waiting: transfers take otherwise than the cluster file says; run pipecut calibrate, then compile again"


def write_report(path: Path, report: Report) -> None:
    """JSON, which compile --costs measured:FILE reads."""
    path.write_text(json.dumps(asdict(report), indent=1))
