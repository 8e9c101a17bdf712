"""Place, schedule and replay until what a step takes fits every device.

What the partitioner counts is no bound on what the replay finds: gradients of two paths that meet, tensors on their way. Where
the replay is over, that rank's devices leave more free, and the stages are placed again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.draft import Draft
from pipecut.compiler.emit.plan import plan_of
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.inputs.units import show_bytes
from pipecut.compiler.partition.partition import partition
from pipecut.compiler.partition.place import SolverOptions
from pipecut.compiler.partition.problem import Problem as Blocks
from pipecut.compiler.predict.memory import with_memory
from pipecut.compiler.predict.step import schedule
from pipecut.compiler.stages.place_evaluation import place_evaluation
from pipecut.plan.schema import Plan, Stage


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
    """A draft that fits every device, and its plan."""

    draft: Draft
    plan: Plan


def fit(problem: Problem, notes: Sequence[str], progress: Callable[[str], None]) -> Fitted:
    """Raises InfeasibleError when nothing fits, or nothing with what the replay needs left free."""
    graph, candidate, cluster = problem.costed.graph, problem.candidate, problem.cluster
    while True:
        draft = _draft(replace(problem, cluster=cluster), progress)
        progress("replaying its memory")
        plan = plan_of(problem.job, problem.costed, draft, [*notes, *_raised(cluster)])
        plan = with_memory(plan, graph, draft.scheduled)
        more = _lacking(plan.stages, candidate.ranks)
        if not any(more):
            return Fitted(draft, plan)
        before = cluster.further or (0,) * candidate.ranks
        cluster = replace(cluster, further=tuple(a + b for a, b in zip(before, more, strict=True)))


def _draft(problem: Problem, progress: Callable[[str], None]) -> Draft:
    """Place the operators of training, order the microbatches, and place those of eval mode."""
    costed, candidate = problem.costed, problem.candidate
    progress(f"placing {len(costed.graph.operators)} operators on {candidate.stages} stages")
    placed = partition(
        problem.blocks,
        problem.cluster,
        problem.job.spec.precision,
        candidate,
        problem.solving,
    )
    progress(f"scheduling {candidate.microbatches} microbatches, {candidate.schedule}")
    scheduled = schedule(costed, placed.cluster, placed.placement, candidate)
    stages_of = placed.placement.stages_of
    cuts, refused = place_evaluation(costed.graph, stages_of, scheduled.cuts)
    scheduled = replace(scheduled, cuts=cuts)
    return Draft(candidate, placed.cluster, placed.placement, scheduled, refused)


def _lacking(stages: Sequence[Stage], ranks: int) -> list[int]:
    """Bytes that each rank must leave free beside what it does, so that it cannot keep what was too much for it.

    With no less capacity than it counts, the same placement would be the best again.
    """
    more = []
    for rank in range(ranks):
        on_rank = [stage for stage in stages if stage.pipeline_rank == rank]
        excess = max(
            stage.peak_bytes + stage.outside_bytes - stage.device_bytes for stage in on_rank
        )
        spare = on_rank[0].capacity_bytes - sum(stage.memory_bytes for stage in on_rank)
        more.append(max(excess, spare + 1) if excess > 0 else 0)
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
