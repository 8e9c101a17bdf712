"""The view Overview: what the plan is, what it promises, what is proven of it, what to mind."""

from dataclasses import dataclass
from math import prod

from pipecut.plan.schema import Plan
from pipecut.quantities import show_seconds
from pipecut.text_table import numbers
from pipecut.view.sources import RunReport, Sources

# A rank fuller than this has little left for what a prediction misses.
NEARLY_FULL = 0.95
# A step that takes so much longer or shorter than predicted calls for measured costs.
SLIGHT = 0.05
# A placement so close to its bound is as good as predictions are.
SMALL_GAP = 0.01
# From here on ranks wait longer than most schedules need.
LARGE_BUBBLE = 0.3


@dataclass(frozen=True)
class Proof:
    """Seconds of the slowest stage for a microbatch, and below which no placement's can be."""

    objective: float
    bound: float
    gap: float
    proven: bool
    solver: str
    seconds: float


@dataclass(frozen=True)
class Setting:
    """A line of what the plan was made for."""

    name: str
    value: str


@dataclass(frozen=True)
class Overview:
    """Seconds of a step; `measured_step` and samples per second of a run, where there is one.

    `warnings` are to be acted on, `notes` to be known.
    """

    predicted_step: float
    measured_step: float | None
    bubble: float
    samples: int
    proof: Proof
    settings: tuple[Setting, ...]
    tied: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def overview_of(sources: Sources) -> Overview:
    """The overview of a plan, and of a run of it."""
    plan, run = sources.plan, sources.run
    certificate = plan.certificate
    return Overview(
        predicted_step=plan.prediction.step_seconds,
        measured_step=run.measured_step if run is not None else None,
        bubble=plan.prediction.bubble,
        samples=plan.batch.global_size,
        proof=Proof(
            certificate.objective,
            certificate.bound,
            certificate.gap,
            certificate.proven,
            certificate.solver,
            certificate.seconds,
        ),
        settings=_settings(plan),
        tied=tuple(
            f"{' = '.join(tied.names)} on stages {', '.join(map(str, tied.stages))}"
            for tied in plan.tied
        ),
        warnings=warnings_of(plan, run),
        notes=tuple(plan.notes),
    )


def _settings(plan: Plan) -> tuple[Setting, ...]:
    model, batch, source = plan.model, plan.batch, plan.source
    kinds = [stage.device for stage in plan.stages]
    counts = [
        f"{kinds.count(kind) * plan.ranks // len(kinds)} x {kind}" for kind in dict.fromkeys(kinds)
    ]
    shapes = {t.names[0]: t.shape for stage in plan.stages for t in stage.parameters}
    rows = {
        "model": model.factory,
        "arguments": ", ".join(f"{key}={value!r}" for key, value in model.args.items()) or "none",
        "parameters": f"{sum(map(prod, shapes.values())):,} in {len(shapes):,} tensors",
        "precision": model.precision,
        "optimizer": str(plan.optimizer) + (", sharded" if plan.shard_optimizer else ""),
        "code": plan.compile,
        "batch": f"{batch.global_size} samples, {batch.microbatch} per microbatch",
        "schedule": plan.schedule,
        "cluster": plan.cluster,
        "devices": ", ".join(counts),
        "compiled from": source.job if source is not None else "",
        "compiled by": f"pipecut {plan.pipecut}, torch {plan.torch}",
        "seal": plan.seal[:12],
    }
    return tuple(Setting(name, value) for name, value in rows.items() if value)


def warnings_of(plan: Plan, run: RunReport | None) -> tuple[str, ...]:
    """What a user should act on, each with what to do."""
    return (
        *_full_ranks(plan),
        *_large_bubble(plan),
        *_gap(plan),
        *_refused(plan),
        *_off(plan, run),
    )


def _full_ranks(plan: Plan) -> list[str]:
    full = {
        stage.index: (stage.peak_bytes + stage.outside_bytes) / max(stage.device_bytes, 1)
        for stage in plan.stages
        if stage.peak_bytes + stage.outside_bytes > NEARLY_FULL * stage.device_bytes
    }
    if not full:
        return []
    stages = "stage" if len(full) == 1 else "stages"
    return [
        f"{stages} {numbers(full)} fill up to {max(full.values()):.0%} of their memory: "
        "a smaller microbatch, or more stages, leave more free"
    ]


def _large_bubble(plan: Plan) -> list[str]:
    bubble = plan.prediction.bubble
    if bubble <= LARGE_BUBBLE:
        return []
    return [
        f"ranks wait {bubble:.0%} of a step: more microbatches, or another schedule, fill it "
        "(pipecut specs lists them; --schedule auto tries them)"
    ]


def _gap(plan: Plan) -> list[str]:
    certificate = plan.certificate
    if certificate.gap <= SMALL_GAP:
        return []
    return [
        f"the slowest stage is not proven optimal: a better placement may save up to "
        f"{certificate.gap:.2%}; --time-limit gives the solver longer"
    ]


def _refused(plan: Plan) -> list[str]:
    refused = plan.evaluation.refused
    return [f"the plan only trains: {refused}"] if refused else []


def _off(plan: Plan, run: RunReport | None) -> list[str]:
    if run is None or not run.measured_step:
        return []
    off = run.measured_step / plan.prediction.step_seconds - 1
    if abs(off) <= SLIGHT:
        return []
    return [
        f"the measured step took {show_seconds(run.measured_step)}, {abs(off):.1%} "
        f"{'shorter' if off < 0 else 'longer'} than predicted: "
        "compile again with --costs measured:REPORT"
    ]
