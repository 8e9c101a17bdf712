"""Place, schedule and replay until what a step takes fits every device.

What the partitioner counts is no bound on what the replay finds: gradients of two paths that meet, tensors on their way. Where
the replay is over, that rank's devices leave more free, and the stages are placed again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.emit.manifest import manifest
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.inputs.units import show_bytes
from pipecut.compiler.partition.partition import partition
from pipecut.compiler.partition.place import SolverOptions
from pipecut.compiler.partition.problem import Placement
from pipecut.compiler.partition.problem import Problem as Blocks
from pipecut.compiler.predict.memory import with_memory
from pipecut.compiler.predict.step import Scheduled, schedule
from pipecut.compiler.stages.place_evaluation import place_evaluation


@dataclass(frozen=True)
class Problem:
    """What is to be placed, on what, and how."""

    job: Job
    costed: CostedGraph
    cluster: Cluster
    blocks: Blocks
    candidate: Candidate
    solving: SolverOptions


@dataclass(frozen=True)
class Fitted:
    """A placement that fits; the cluster's nodes in the order that suits it; the facts of the plan."""

    placement: Placement
    cluster: Cluster
    scheduled: Scheduled
    facts: dict[str, Any]


def fit(problem: Problem, notes: list[str], progress: Callable[[str], None]) -> Fitted:
    """Raises InfeasibleError when nothing fits, or nothing with what the replay needs left free."""
    job, costed, candidate, cluster = (
        problem.job,
        problem.costed,
        problem.candidate,
        problem.cluster,
    )
    operators = len(costed.graph.operators)
    while True:
        progress(f"placing {operators} operators on {candidate.stages} stages")
        placed = partition(
            problem.blocks, costed, cluster, job.spec.precision, candidate, problem.solving
        )
        placement, ordered = placed.placement, placed.cluster
        progress(f"scheduling {candidate.microbatches} microbatches, {candidate.schedule}")
        scheduled = schedule(costed, ordered, placement, candidate)
        cuts, refused = place_evaluation(costed.graph, placement.stages_of, scheduled.cuts)
        scheduled = replace(scheduled, cuts=cuts)
        progress("replaying its memory")
        said = [*notes, *_raised(cluster)]
        plain = manifest(job, ordered, costed, placement, scheduled, candidate, said, refused)
        facts = with_memory(plain, costed.graph, scheduled)
        more = _lacking(facts["stages"], candidate.ranks)
        if not any(more):
            return Fitted(placement, ordered, scheduled, facts)
        before = cluster.further or (0,) * candidate.ranks
        cluster = replace(cluster, further=tuple(a + b for a, b in zip(before, more, strict=True)))


def _lacking(stages: list[dict[str, Any]], ranks: int) -> list[int]:
    """Bytes that each rank must leave free beside what it does, so that it cannot keep what was too much for it.

    With no less capacity than it counts, the same placement would be the best again.
    """
    more = []
    for rank in range(ranks):
        own = [stage for stage in stages if stage["pipeline_rank"] == rank]
        over = max(
            stage["peak_bytes"] + stage["outside_bytes"] - stage["device_bytes"] for stage in own
        )
        spare = own[0]["capacity_bytes"] - sum(stage["memory_bytes"] for stage in own)
        more.append(max(over, spare + 1) if over > 0 else 0)
    return more


def _raised(cluster: Cluster) -> list[str]:
    ranks = [
        f"{show_bytes(cluster.reserve_of(r))} on rank {r}"
        for r, size in enumerate(cluster.further)
        if size
    ]
    return (
        [f"the reserve was raised for what a step takes at its peak, to {', '.join(ranks)}"]
        if ranks
        else []
    )
