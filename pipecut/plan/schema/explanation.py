"""explain.json: the candidates that a compile compared, and what looser limits would give."""

from pipecut.plan.schema.numbers import Count, Finite, PlanModel, Positive, Seconds

# Only plans whose sizes were searched, or that were compiled with --explain, have this file.
EXPLANATION = "explain.json"


class TriedCandidate(PlanModel):
    """Sizes and what became of them: a predicted step, or `why` there is none."""

    stages: Positive
    replicas: Positive
    microbatch: Positive
    microbatches: Positive
    schedule: str
    step_seconds: Seconds | None
    bubble: Finite | None
    recomputing: Count
    chosen: bool
    why: str


class LimitPrice(PlanModel):
    """The best step found without a limit; None where nothing fits."""

    limit: str
    step_seconds: Seconds | None


class Explanation(PlanModel):
    """Candidates, the best first; `limits` where the choice was to be explained."""

    candidates: tuple[TriedCandidate, ...]
    limits: tuple[LimitPrice, ...]
