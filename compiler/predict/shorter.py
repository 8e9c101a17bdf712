"""Seconds of stages at less than the longest lengths: the graph is costed anew, not traced."""

from collections.abc import Sequence

from pipecut.compiler.costs.rebatch import with_lengths
from pipecut.compiler.costs.roofline import CostedGraph, cost
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.predict.stage_seconds import StageSeconds, compute_seconds
from pipecut.compiler.stages.cut import Cut
from pipecut.errors import PlanError
from pipecut.plan.schema import SecondsAt, Stage

# Shares of the longest lengths. Between them seconds are interpolated, which at most adds a 64th of
# what grows with the square.
SHARES = (0.25, 0.5, 0.75)


def with_shorter(
    stages: list[Stage], job: Job, costed: CostedGraph, cuts: Sequence[Cut], cluster: Cluster
) -> list[Stage]:
    """The stages, with their seconds at shorter lengths where the graph leaves lengths open.

    Measured seconds of the longest are scaled as roofline estimates are.
    """
    graph = costed.graph
    if not graph.lengths:
        return stages
    pairs = list(zip(stages, cuts, strict=True))
    try:
        full, *shorter = (
            _seconds(pairs, _at(share, job, costed, cluster)) for share in (1.0, *SHARES)
        )
    except PlanError:
        # A size is one that only stage code can compute.
        return stages
    return [
        stage.model_copy(
            update={
                "shorter": [
                    _scaled(stage, share, full[stage.index], seconds[stage.index])
                    for share, seconds in zip(SHARES, shorter, strict=True)
                ]
            }
        )
        for stage in stages
    ]


def _at(share: float, job: Job, costed: CostedGraph, cluster: Cluster) -> CostedGraph:
    """Roofline estimates at this share of the longest lengths."""
    graph, microbatch = costed.graph, job.microbatch
    lengths = {name: max(1, round(share * most)) for name, most in graph.lengths.items()}
    shorter = with_lengths(graph, microbatch, lengths)
    return cost(shorter, cluster, job.spec.precision, microbatch, {})


def _seconds(pairs: Sequence[tuple[Stage, Cut]], costed: CostedGraph) -> list[StageSeconds]:
    """Of each stage."""
    return [
        compute_seconds(costed, cut, stage.device, splits_backward=False) for stage, cut in pairs
    ]


def _scaled(stage: Stage, share: float, full: StageSeconds, shorter: StageSeconds) -> SecondsAt:
    return SecondsAt(
        share=share,
        forward_seconds=stage.forward_seconds * _ratio(shorter.forward, full.forward),
        backward_seconds=stage.backward_seconds * _ratio(shorter.backward, full.backward),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0
