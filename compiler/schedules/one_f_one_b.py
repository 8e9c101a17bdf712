"""1F1B (Narayanan et al., PipeDream, 2019; with a flush, 2021).

A rank holds at most ranks - rank microbatches.

rank 0   F0 F1 F2 .  .  B0 F3 B1 .  B2 .  B3
rank 1   .  F0 F1 .  B0 F2 B1 F3 B2 .  B3
rank 2   .  .  F0 B0 F1 B1 F2 B2 F3 B3
"""

from pipecut.compiler.schedules.order import alternating
from pipecut.compiler.schedules.schedule import Schedule, fill_and_drain
from pipecut.plan.actions import Compute


def order(rank: int, ranks: int, microbatches: int, stages_per_rank: int) -> list[Compute]:
    """What a rank computes; stage = rank."""
    parts = [(rank, m) for m in range(microbatches)]
    return alternating(parts, parts, ranks - rank - 1, "B")


def in_flight_of(stages: int, microbatches: int) -> tuple[int, ...]:
    """As many as there are stages from this one on."""
    return tuple(min(microbatches, stages - stage) for stage in range(stages))


ONE_F_ONE_B = Schedule(
    name="1f1b",
    order=order,
    idle="p - 1",
    activations="p on the first rank, 1 on the last",
    searched=True,
    idle_seconds=fill_and_drain,
    in_flight_of=in_flight_of,
)
