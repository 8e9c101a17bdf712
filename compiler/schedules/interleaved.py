"""Interleaved 1F1B (Narayanan et al., 2021, section 2.2.2): several stages per rank, taken in turn.

A rank has `stages_per_rank` stages, `ranks` apart from each other. Microbatches go in groups of as
many as there are ranks, each group through one of the rank's stages after the other. The bubble is
that of 1F1B over one such stage, where the groups are full. Two ranks, two stages per rank (stages
0 and 2 on rank 0; lower case is the second one):

rank 0   F0 F1 f0 f1 F2 b0 F3 b1 f2 B0 f3 B1 .  b2 .  b3 B2 B3
rank 1   .  F0 F1 f0 b0 f1 b1 F2 B0 F3 B1 f2 b2 f3 b3 B2 B3
"""

from pipecut.compiler.schedules.order import alternating
from pipecut.compiler.schedules.schedule import Schedule, fill_and_drain
from pipecut.plan.actions import Compute


def order(rank: int, ranks: int, microbatches: int, stages_per_rank: int) -> list[Compute]:
    """What a rank computes; its stages are rank, rank + ranks, rank + 2 x ranks, ..."""
    if stages_per_rank == 1:
        parts = [(rank, m) for m in range(microbatches)]
        return alternating(parts, parts, ranks - rank - 1, "B")
    # Where the last group is not full, the order is that of a full one less what is missing:
    # so nothing can wait in a circle.
    groups = [range(first, first + ranks) for first in range(0, microbatches, ranks)]
    stages = [turn * ranks + rank for turn in range(stages_per_rank)]
    forward = [(stage, m) for group in groups for stage in stages for m in group]
    backward = [(stage, m) for group in groups for stage in reversed(stages) for m in group]
    ahead = 2 * (ranks - rank - 1) + (stages_per_rank - 1) * ranks
    full = alternating(forward, backward, ahead, "B")
    return [compute for compute in full if compute.microbatch < microbatches]


INTERLEAVED = Schedule(
    name="interleaved",
    order=order,
    idle="(p - 1) / stages_per_rank",
    activations="up to half more than 1F1B's",
    stages_per_rank=None,
    idle_seconds=fill_and_drain,
)
