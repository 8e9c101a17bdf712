"""What to do where a step takes more than a device has: leave more free, and place again.

What the partitioner counts is no bound on what the replay finds: gradients of two paths that meet,
tensors on their way. Where the replay is over, that rank's devices leave more free, and the stages
are placed again. Each round leaves free what the placement before filled, so no placement is tried
twice.
"""

from collections.abc import Sequence

from pipecut.compiler.inputs.cluster import Cluster
from pipecut.plan.schema import Plan, Stage
from pipecut.quantities import show_bytes


def shortage(plan: Plan) -> tuple[int, ...]:
    """Bytes that each rank must leave free beside what it does: 0 where its replay fits.

    Enough that it cannot keep what was too much for it: with no less capacity than it counts, the
    same placement would be the best again.
    """
    ranks = 1 + max(stage.pipeline_rank for stage in plan.stages)
    return tuple(
        _shortage_of([stage for stage in plan.stages if stage.pipeline_rank == rank])
        for rank in range(ranks)
    )


def notes_on_reserves(cluster: Cluster) -> list[str]:
    """A note where ranks leave more free than the cluster file says."""
    ranks = [
        f"{show_bytes(cluster.reserve_of(rank))} on rank {rank}"
        for rank, size in enumerate(cluster.further)
        if size
    ]
    if not ranks:
        return []
    return [f"the reserve was raised for what a step takes at its peak, to {', '.join(ranks)}"]


def _shortage_of(on_rank: Sequence[Stage]) -> int:
    """The stages of one rank fill its device together."""
    excess = max(stage.peak_bytes + stage.outside_bytes - stage.device_bytes for stage in on_rank)
    spare = on_rank[0].capacity_bytes - sum(stage.memory_bytes for stage in on_rank)
    return max(excess, spare + 1) if excess > 0 else 0
