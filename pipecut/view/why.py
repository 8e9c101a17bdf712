"""The view Why: what binds, what was tried and why it lost, what another cut would cost."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipecut.plan.schema import Plan, Stage
from pipecut.plan.schema.explanation import Explanation, LimitPrice, TriedCandidate
from pipecut.quantities import show_bytes, show_seconds
from pipecut.text_table import numbers
from pipecut.view.reading.problem import CutProblem
from pipecut.view.sources import Sources

# A rank that uses more of its memory than this cannot take a further layer.
BINDING = 0.9
# What sums of seconds may be off by.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Reason:
    """A sentence or two on what keeps the step from being shorter."""

    subject: str
    text: str


@dataclass(frozen=True)
class Why:
    """What `binds`; what was compared, where something was; the problem to cut."""

    binds: tuple[Reason, ...]
    candidates: tuple[TriedCandidate, ...]
    limits: tuple[LimitPrice, ...]
    step_seconds: float
    cut: CutProblem | None


def why_of(sources: Sources) -> Why:
    """Why the plan is as it is."""
    explanation = sources.explanation or Explanation(candidates=(), limits=())
    return Why(
        binds=binding(sources.plan),
        candidates=explanation.candidates,
        limits=explanation.limits,
        step_seconds=sources.plan.prediction.step_seconds,
        cut=sources.problem,
    )


def binding(plan: Plan) -> tuple[Reason, ...]:
    """What keeps the step from being shorter, the strongest first."""
    memory = " ".join((_memory(plan), *_recomputing(plan)))
    if len(plan.stages) == 1:
        return (Reason("one stage", _slowest(plan)), Reason("memory", memory))
    return (
        Reason("slowest stage", _slowest(plan)),
        Reason("balance", _balance(plan)),
        Reason("step", _step(plan)),
        Reason("memory", memory),
    )


def _slowest(plan: Plan) -> str:
    stage = max(plan.stages, key=lambda stage: stage.load_seconds)
    parts = [
        f"{show_seconds(stage.forward_seconds)} forward",
        f"{show_seconds(stage.backward_seconds)} backward",
    ]
    if stage.recompute:
        parts.append(f"{show_seconds(stage.forward_seconds)} for a second forward")
    transfers = stage.load_seconds - stage.forward_seconds - stage.backward_with_recompute
    if transfers > ROUNDING * stage.load_seconds:
        parts.append(f"{show_seconds(transfers)} transfers")
    only = len(plan.stages) == 1
    subject = "It takes" if only else f"Stage {stage.index} is the slowest:"
    return f"{subject} {show_seconds(stage.load_seconds)} for a microbatch, {', '.join(parts)}."


def _balance(plan: Plan) -> str:
    loads = [stage.load_seconds for stage in plan.stages]
    mean, slowest = sum(loads) / len(loads), max(loads)
    if not slowest:
        return "No stage takes any time."
    return (
        f"The mean stage takes {show_seconds(mean)}, {mean / slowest:.0%} of the slowest. The rest "
        "is what memory, transfers and blocks that cannot be divided cost."
    )


def _step(plan: Plan) -> str:
    by_rank: dict[int, float] = {}
    for stage in plan.stages:
        seconds = _compute(plan, stage)
        by_rank[stage.pipeline_rank] = by_rank.get(stage.pipeline_rank, 0.0) + seconds
    busiest = max(by_rank, key=lambda rank: by_rank[rank])
    step = plan.prediction.step_seconds
    share = by_rank[busiest] / step if step else 0.0
    return (
        f"Of {show_seconds(step)} the busiest rank, {busiest}, computes for "
        f"{show_seconds(by_rank[busiest])} ({share:.0%}). In the rest the pipeline fills and "
        "drains, and gradients are summed: more microbatches, or another schedule, shorten that."
    )


def _compute(plan: Plan, stage: Stage) -> float:
    """Seconds that a stage computes in a step."""
    return plan.microbatches * (stage.forward_seconds + stage.backward_with_recompute)


def _memory(plan: Plan) -> str:
    taken = {stage.index: stage.peak_bytes + stage.outside_bytes for stage in plan.stages}
    full = [stage for stage in plan.stages if taken[stage.index] > BINDING * stage.device_bytes]
    if not full:
        fullest = max(plan.stages, key=lambda s: taken[s.index] / max(s.device_bytes, 1))
        return (
            f"Does not bind: stage {fullest.index}, the fullest, takes "
            f"{show_bytes(taken[fullest.index])} of {show_bytes(fullest.device_bytes)}."
        )
    return (
        f"Binds on {_stages(stage.index for stage in full)}: more than {BINDING:.0%} of the device "
        "is taken."
    )


def _recomputing(plan: Plan) -> list[str]:
    stages = [stage.index for stage in plan.stages if stage.recompute]
    if not stages:
        return []
    return [
        f"Activations of {_stages(stages)} do not fit: only what is received is kept, and forward "
        "runs again before backward."
    ]


def _stages(indices: Iterable[int]) -> str:
    """`stage 3`, or `stages 1, 3-8`."""
    text = numbers(indices)
    return f"stage {text}" if text.isdigit() else f"stages {text}"
