"""Predicted and measured seconds of every stage side by side, and the likely cause of an error."""

import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipecut.plan.actions import Compute, Op, Send, stage_of
from pipecut.plan.folder import PlanFolder
from pipecut.plan.replay.simulate import Timeline, predicted
from pipecut.plan.schema import Plan, Stage
from pipecut.runtime.engine.recorder import Record

# Below this nothing is worth a cause.
SLIGHT = 0.05
BACKWARD: tuple[Op, ...] = ("B", "I", "W")


@dataclass(frozen=True)
class Row:
    """A stage on a rank.

    Seconds per microbatch of `forward` and `backward`, seconds per step that it `wait`s and that
    its messages take to `send`, and the rank's bytes at the peak.
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
    """Seconds of the step, predicted and measured, and rows of both in the same order.

    `operators` has, by device kind and name, forward and backward seconds that sum to what the
    stages took.
    """

    predicted_step: float
    measured_step: float
    predicted: tuple[Row, ...]
    measured: tuple[Row, ...]
    microbatch: int
    operators: dict[str, dict[str, tuple[float, float]]]


# The records of one rank, step by step.
Steps = Sequence[Sequence[Record]]


def report_of(
    folder: PlanFolder,
    steps: Mapping[int, Steps],
    step_seconds: float,
    peaks: Mapping[int, int],
) -> Report:
    """The report of a run: medians over the steps that each rank recorded.

    `step_seconds` is the measured step, `peaks` has each rank's bytes.
    """
    plan, timeline = folder.plan, predicted(folder)
    expected, measured = [], []
    for rank, recorded in sorted(steps.items()):
        for stage in plan.stages_on(rank):
            expected.append(_predicted_row(plan, timeline, stage, rank))
            measured.append(_measured_row(plan, recorded, stage, rank, peaks.get(rank, 0)))
    return Report(
        timeline.step_seconds,
        step_seconds,
        tuple(expected),
        tuple(measured),
        plan.batch.microbatch,
        _operators(folder, measured),
    )


def _predicted_row(plan: Plan, timeline: Timeline, stage: Stage, rank: int) -> Row:
    pipeline_rank = plan.layout.place(rank).pipeline_rank
    on_rank = [event for event in timeline.events if event.rank == pipeline_rank]
    events = [event for event in on_rank if stage_of(event.action) == stage.index]
    sends = sum(event.end - event.start for event in events if isinstance(event.action, Send))
    computed = max((e.end for e in events if isinstance(e.action, Compute)), default=0.0)
    forward, backward = stage.forward_seconds, stage.backward_with_recompute
    waits = max(0.0, computed - plan.microbatches * (forward + backward))
    return Row(rank, stage.index, forward, backward, waits, sends, stage.peak_bytes)


def _measured_row(plan: Plan, steps: Steps, stage: Stage, rank: int, peak: int) -> Row:
    of_stage = [[r for r in records if stage_of(r.action) == stage.index] for records in steps]
    forward = _computing("F", of_stage)
    backward = sum(_computing(op, of_stage) for op in BACKWARD)
    return Row(
        rank,
        stage.index,
        forward / plan.microbatches,
        backward / plan.microbatches,
        _seconds(lambda record: record.waited, of_stage),
        _seconds(lambda record: isinstance(record.action, Send), of_stage),
        peak,
    )


def _computing(op: Op, steps: Steps) -> float:
    """Seconds of an operation, without its waiting, in the median step."""

    def computes(record: Record) -> bool:
        action = record.action
        return isinstance(action, Compute) and action.op == op and not record.waited

    return _seconds(computes, steps)


def _seconds(counts: Callable[[Record], bool], steps: Steps) -> float:
    """Seconds of the records that count, in the median step."""
    return _median([sum(r.end - r.start for r in records if counts(r)) for records in steps])


def _operators(
    folder: PlanFolder, measured: Sequence[Row]
) -> dict[str, dict[str, tuple[float, float]]]:
    """The plan's costs of single operators, scaled so that each stage takes what it took."""
    operators: dict[str, dict[str, tuple[float, float]]] = {}
    for stage in folder.plan.stages:
        rows = [row for row in measured if row.stage == stage.index]
        forward = _median([row.forward for row in rows]) / (stage.forward_seconds or 1.0)
        # A backward that recomputes runs the forward again.
        recomputing = stage.forward_seconds * forward if stage.recompute else 0.0
        backward = _median([max(0.0, row.backward - recomputing) for row in rows])
        backward /= stage.backward_seconds or 1.0
        kind = operators.setdefault(stage.device, {})
        for operator in folder.graph.operators:
            if stage.index in operator.placed_on:
                kind[operator.name] = (
                    operator.forward_seconds[stage.device] * forward,
                    operator.backward_seconds[stage.device] * backward,
                )
    return operators


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0


def lines(report: Report, costs_measured: bool) -> list[str]:
    """The table, and what to do about the largest error."""
    error = report.predicted_step / report.measured_step - 1 if report.measured_step else 0.0
    predicted_ms, measured_ms = report.predicted_step * 1e3, report.measured_step * 1e3
    return [
        "ms and MiB, predicted/measured; wait and sends per step",
        f"stage rank {'forward':>12} {'backward':>17} {'wait':>17} {'sends':>17} {'memory':>17}",
        *map(_line, report.predicted, report.measured),
        f"step   predicted {predicted_ms:.1f} ms, measured {measured_ms:.1f} ms, {error:+.1%}",
        _cause(report, error, costs_measured),
    ]


def _line(predicted: Row, measured: Row) -> str:
    seconds = [
        (predicted.forward, measured.forward),
        (predicted.backward, measured.backward),
        (predicted.wait, measured.wait),
        (predicted.send, measured.send),
    ]
    times = " ".join(f"{expected * 1e3:8.2f}/{took * 1e3:8.2f}" for expected, took in seconds)
    # A device without a count of its own has no measured memory.
    peak = f"{measured.memory / 2**20:8.1f}" if measured.memory else f"{'-':>8}"
    memory = f"{predicted.memory / 2**20:8.1f}/{peak}"
    return f"{predicted.stage:4d} {predicted.rank:4d}  {times} {memory}"


def _cause(report: Report, error: float, costs_measured: bool) -> str:
    if abs(error) <= SLIGHT:
        return "the prediction holds"
    predicted_seconds = sum(row.forward + row.backward for row in report.predicted)
    measured_seconds = sum(row.forward + row.backward for row in report.measured)
    apart = predicted_seconds / measured_seconds - 1 if measured_seconds else 0.0
    if abs(apart) <= abs(error) / 2:
        return (
            "most of it is waiting: transfers do not take what the cluster file says; "
            "run pipecut calibrate, then compile again"
        )
    ranks, cores = len(report.measured), os.cpu_count() or 1
    shared = f", and {ranks} ranks share {cores} cores" if ranks > cores else ""
    remedy = "run pipecut profile, then compile again"
    if costs_measured:
        remedy = "compile again with --costs measured:FILE"
    return f"most of it is compute, predicted {apart:+.1%} off{shared}; {remedy}"


def write_report(path: Path, report: Report) -> None:
    """JSON, which compile --costs measured:FILE reads."""
    path.write_text(json.dumps(asdict(report), indent=1))
