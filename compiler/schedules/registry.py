"""All schedules by name: everything that lists or asks about schedules reads this."""

from pipecut.compiler.schedules.gpipe import GPIPE
from pipecut.compiler.schedules.interleaved import INTERLEAVED
from pipecut.compiler.schedules.one_f_one_b import ONE_F_ONE_B
from pipecut.compiler.schedules.schedule import Schedule
from pipecut.compiler.schedules.v_shaped import V_SHAPED
from pipecut.compiler.schedules.zero_bubble import ZERO_BUBBLE
from pipecut.plan.actions import Compute

SCHEDULES: dict[str, Schedule] = {
    schedule.name: schedule for schedule in (GPIPE, ONE_F_ONE_B, INTERLEAVED, ZERO_BUBBLE, V_SHAPED)
}
# Those whose stages per rank the job chooses.
WITH_CHOSEN_STAGES_PER_RANK = tuple(
    name for name, schedule in SCHEDULES.items() if schedule.stages_per_rank is None
)


def pipeline_ranks_of(schedule: str, stages: int, stages_per_rank: int) -> tuple[int, ...]:
    """The pipeline rank of each stage; there are stages / stages_per_rank ranks."""
    ranks = stages // stages_per_rank
    if SCHEDULES[schedule].returns:
        return (*range(ranks), *reversed(range(ranks)))
    return tuple(stage % ranks for stage in range(stages))


def orders(
    schedule: str, stages: int, microbatches: int, stages_per_rank: int
) -> list[list[Compute]]:
    """What each rank computes, in order; there are stages / stages_per_rank ranks."""
    ranks = stages // stages_per_rank
    order = SCHEDULES[schedule].order
    return [order(rank, ranks, microbatches, stages_per_rank) for rank in range(ranks)]


def in_flight(
    schedule: str, stages: int, microbatches: int, stages_per_rank: int
) -> tuple[int, ...]:
    """Microbatches whose activations each stage holds at most.

    Where backward is split, it holds them until the gradients of weights, too.
    """
    closed_form = SCHEDULES[schedule].in_flight_of
    if closed_form is not None:
        # Searches ask by the hundred.
        return closed_form(stages, microbatches)
    live, peak = [0] * stages, [0] * stages
    for order in orders(schedule, stages, microbatches, stages_per_rank):
        for compute in order:
            stage = compute.stage
            live[stage] += {"F": 1, "I": 0}.get(compute.op, -1)
            peak[stage] = max(peak[stage], live[stage])
    return tuple(peak)
