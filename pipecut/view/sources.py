"""What a page is made of: a plan, and what the user has beside it, read and compared with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pipecut.errors import PlanError, UserFileError
from pipecut.plan.folder import PlanFolder, checked_bytes, read_plan
from pipecut.plan.replay.simulate import Timeline, predicted
from pipecut.plan.schema import Finite, Plan
from pipecut.plan.schema.explanation import EXPLANATION, Explanation
from pipecut.view.reading.mistakes import first_mistake
from pipecut.view.reading.problem import CutProblem, read_problem

# Predicted steps of one plan differ by rounding alone.
SAME_STEP = 1e-6
# The lanes of a trace: what was predicted, and what ranks really did.
PREDICTED_LANE, MEASURED_LANE = 0, 1


class _FileModel(BaseModel):
    """Frozen; a file may have more than is read here."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class RunRow(_FileModel):
    """A stage on a rank, as `pipecut run --report` writes it.

    Seconds per microbatch of `forward` and `backward`, seconds per step of `wait` and `send`, bytes
    of `memory` at the rank's peak, 0 where the device does not count them.
    """

    rank: int
    stage: int
    forward: Finite
    backward: Finite
    wait: Finite
    send: Finite
    memory: int


class RunReport(_FileModel):
    """A run: seconds of the step, predicted and measured, and a row per rank and stage of both."""

    predicted_step: Finite
    measured_step: Finite
    predicted: tuple[RunRow, ...]
    measured: tuple[RunRow, ...]


@dataclass(frozen=True)
class Span:
    """What a rank did: seconds from the begin of the measured step.

    `kind` is F, B, I, W, SEND, WAIT or REDUCE; the last has neither stage nor microbatch.
    """

    rank: int
    kind: str
    stage: int | None
    microbatch: int | None
    start: float
    end: float


class _Details(_FileModel):
    stage: int | None = None
    microbatch: int | None = None


class _TraceEvent(_FileModel):
    """An event of a Chrome trace; microseconds."""

    ph: str
    cat: str = ""
    pid: int = 0
    tid: int = 0
    ts: Finite = 0.0
    dur: Finite = 0.0
    args: _Details = _Details()


class _Trace(_FileModel):
    traceEvents: list[dict[str, Any]]


@dataclass(frozen=True)
class Sources:
    """A plan, and of the rest what the user gave: a run's report and spans, and another plan.

    `code` has the text of each stage's file, by the file's name. `problem` and `explanation` are
    what the plan says of how it was made, where it does.
    """

    folder: PlanFolder
    run: RunReport | None = None
    spans: tuple[Span, ...] = ()
    other: PlanFolder | None = None
    code: Mapping[str, str] = field(default_factory=dict)
    problem: CutProblem | None = None
    explanation: Explanation | None = None

    @property
    def plan(self) -> Plan:
        """The plan that the page shows."""
        return self.folder.plan

    @cached_property
    def timeline(self) -> Timeline:
        """The predicted step, replayed once."""
        return predicted(self.folder)


def read_sources(
    plan: Path, run: Path | None = None, trace: Path | None = None, against: Path | None = None
) -> Sources:
    """Read all files of a page.

    Raises PlanError for a plan folder, UserFileError for a report or trace that is none, or that is
    of another plan.
    """
    folder = read_plan(plan)
    return Sources(
        folder,
        read_report(run, folder.plan) if run is not None else None,
        read_spans(trace, folder.plan) if trace is not None else (),
        read_plan(against) if against is not None else None,
        code_of(folder),
        read_problem(folder),
        read_explanation(folder),
    )


def read_explanation(folder: PlanFolder) -> Explanation | None:
    """What a plan's compile compared; None where it says nothing of that. Raises PlanError."""
    if EXPLANATION not in folder.plan.hashes:
        return None
    try:
        return Explanation.model_validate_json(checked_bytes(folder.path, folder.plan, EXPLANATION))
    except ValidationError as error:
        raise PlanError(
            f"{folder.path / EXPLANATION}: {first_mistake(error)}; compile again"
        ) from None


def code_of(folder: PlanFolder) -> dict[str, str]:
    """The text of each stage's file, by its name. Raises PlanError where one was edited."""
    names = (stage.file for stage in folder.plan.stages)
    return {
        name: checked_bytes(folder.path, folder.plan, name).decode("utf-8", "replace")
        for name in names
    }


def read_report(path: Path, plan: Plan) -> RunReport:
    """The report of a run of the plan. Raises UserFileError."""
    try:
        report = RunReport.model_validate_json(_read(path, "--run", "--report"))
    except ValidationError as error:
        raise UserFileError(
            f"{path}: is no report of a run: {first_mistake(error)}; give the file that "
            "pipecut run --report wrote"
        ) from None
    reason = _other_run(report, plan)
    if reason is not None:
        raise UserFileError(
            f"{path}: is of another plan: {reason}; run this plan with --report, or view the plan "
            "that ran"
        )
    return report


def _other_run(report: RunReport, plan: Plan) -> str | None:
    """Why a report is not of the plan; None where it may be."""
    expected = {(rank, stage.index) for rank in range(plan.ranks) for stage in plan.stages_on(rank)}
    for rows in (report.predicted, report.measured):
        if {(row.rank, row.stage) for row in rows} != expected:
            return f"its stages and ranks are not those of {len(plan.stages)} stages"
    return _other_step(report.predicted_step, plan)


def _other_step(seconds: float, plan: Plan) -> str | None:
    """Why a prediction is not the plan's; None where it is."""
    step = plan.prediction.step_seconds
    if abs(seconds - step) > SAME_STEP * step:
        return f"it says that a step of {seconds:.6g} s was predicted, not {step:.6g}"
    return None


def read_spans(path: Path, plan: Plan) -> tuple[Span, ...]:
    """What a trace of a run of the plan has measured, in the file's order. Raises UserFileError."""
    try:
        rows = _Trace.model_validate_json(_read(path, "--trace", "--trace")).traceEvents
        complete = [row for row in rows if row.get("ph") == "X"]
        events = TypeAdapter(list[_TraceEvent]).validate_python(complete)
    except ValidationError as error:
        raise UserFileError(
            f"{path}: is no trace of a run: {first_mistake(error)}; give the file that "
            "pipecut run --trace wrote"
        ) from None
    spans = [_span(event) for event in events if event.tid == MEASURED_LANE]
    if not spans:
        raise UserFileError(
            f"{path}: has nothing that was measured; give the file that pipecut run --trace wrote"
        )
    stranger = _stranger(spans, plan)
    if stranger is not None:
        raise UserFileError(
            f"{path}: is of another plan: rank {stranger.rank} has {stranger.kind} "
            f"{stranger.stage}.{stranger.microbatch}; run this plan with --trace"
        )
    expected = [_span(event) for event in events if event.tid == PREDICTED_LANE]
    reason = _other_step(max((span.end for span in expected), default=0.0), plan)
    if reason is not None:
        raise UserFileError(
            f"{path}: is of another plan: {reason}; run this plan with --trace, or view the plan "
            "that ran"
        )
    return tuple(spans)


def _span(event: _TraceEvent) -> Span:
    start = event.ts / 1e6
    end = start + event.dur / 1e6
    return Span(event.pid, event.cat, event.args.stage, event.args.microbatch, start, end)


def _stranger(spans: Sequence[Span], plan: Plan) -> Span | None:
    """The first span that no rank of the plan can have."""
    stages = [{stage.index for stage in plan.stages_on(rank)} for rank in range(plan.ranks)]
    for span in spans:
        if not 0 <= span.rank < plan.ranks:
            return span
        if span.stage is not None and span.stage not in stages[span.rank]:
            return span
        if span.microbatch is not None and not 0 <= span.microbatch < plan.microbatches:
            return span
    return None


def _read(path: Path, option: str, written_by: str) -> bytes:
    """A file given by an option of view, which an option of run wrote. Raises UserFileError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserFileError(
            f"{option} {path} cannot be read: {error.strerror or error}; give the file that "
            f"pipecut run {written_by} wrote"
        ) from None
