"""Orders of compute per rank, and their lowering to actions."""

from collections.abc import Callable
from dataclasses import dataclass

from pipecut.compiler.schedules.gpipe import gpipe
from pipecut.compiler.schedules.interleaved import interleaved
from pipecut.compiler.schedules.one_f_one_b import one_f_one_b
from pipecut.compiler.schedules.v_shaped import v_shaped
from pipecut.compiler.schedules.zero_bubble import zero_bubble
from pipecut.plan.actions import Compute


@dataclass(frozen=True)
class Schedule:
    """What a rank computes; stages a rank, None for as many as the job says; whether it goes back where it came from."""

    order: Callable[[int, int, int, int], list[Compute]]
    stages_per_rank: int | None = 1
    returns: bool = False


SCHEDULES = {
    "gpipe": Schedule(gpipe),
    "1f1b": Schedule(one_f_one_b),
    "interleaved": Schedule(interleaved, stages_per_rank=None),
    "zb-h1": Schedule(zero_bubble),
    "v-shaped": Schedule(v_shaped, stages_per_rank=2, returns=True),
}

# Those whose backward comes in two parts.
SPLIT = ("zb-h1", "v-shaped")


def pipeline_ranks_of(schedule: str, stages: int, stages_per_rank: int) -> tuple[int, ...]:
    """The rank of each stage, in a pipeline of stages / stages_per_rank ranks."""
    ranks = stages // stages_per_rank
    if SCHEDULES[schedule].returns:
        return (*range(ranks), *reversed(range(ranks)))
    return tuple(stage % ranks for stage in range(stages))


def orders(
    schedule: str, stages: int, microbatches: int, stages_per_rank: int
) -> list[list[Compute]]:
    """What each rank computes, in order; stages / stages_per_rank ranks."""
    ranks = stages // stages_per_rank
    return [
        SCHEDULES[schedule].order(rank, ranks, microbatches, stages_per_rank)
        for rank in range(ranks)
    ]


def in_flight(
    schedule: str, stages: int, microbatches: int, stages_per_rank: int
) -> tuple[int, ...]:
    """Microbatches whose activations a stage holds at most, by stage; those it keeps for the gradients of weights, too."""
    # Searches ask for these two by the hundred.
    if schedule == "gpipe":
        return (microbatches,) * stages
    if schedule == "1f1b":
        return tuple(min(microbatches, stages - stage) for stage in range(stages))
    live, peak = [0] * stages, [0] * stages
    for order in orders(schedule, stages, microbatches, stages_per_rank):
        for compute in order:
            stage = compute.stage
            live[stage] += {"F": 1, "I": 0}.get(compute.op, -1)
            peak[stage] = max(peak[stage], live[stage])
    return tuple(peak)
