"""GPipe (Huang et al., 2019): all forwards, then all backwards.

rank 0   F0 F1 F2 .  .  .  .  B0 B1 B2
rank 1   .  F0 F1 F2 .  .  B0 B1 B2
rank 2   .  .  F0 F1 F2 B0 B1 B2
"""

from pipecut.compiler.schedules.schedule import Schedule, fill_and_drain
from pipecut.plan.actions import Compute, Op


def order(rank: int, ranks: int, microbatches: int, stages_per_rank: int) -> list[Compute]:
    """What a rank computes; stage = rank."""
    ops: tuple[Op, ...] = ("F", "B")
    return [Compute(op, rank, m) for op in ops for m in range(microbatches)]


def in_flight_of(stages: int, microbatches: int) -> tuple[int, ...]:
    """All microbatches on every stage."""
    return (microbatches,) * stages


GPIPE = Schedule(
    name="gpipe",
    order=order,
    idle="p - 1",
    activations="all microbatches",
    searched=True,
    idle_seconds=fill_and_drain,
    in_flight_of=in_flight_of,
)
