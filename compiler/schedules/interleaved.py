"""Interleaved 1F1B (Narayanan et al., 2021, section 2.2.2): a rank has `stages_per_rank` stages, `ranks` apart from each other.

Microbatches go in groups of as many as there are ranks, each group through one chunk after the other. The bubble is that of 1F1B
over the chunks, where the groups are full. Two ranks, two chunks (stages 0 and 2 on rank 0; lower case is the second chunk):

rank 0   F0 F1 f0 f1 F2 b0 F3 b1 f2 B0 f3 B1 b2 b3 B2 B3
rank 1   .  F0 F1 f0 b0 f1 b1 F2 B0 F3 B1 f2 b2 f3 b3 B2 B3
"""

from pipecut.compiler.schedules.order import alternating
from pipecut.plan.actions import Compute


def interleaved(rank: int, ranks: int, microbatches: int, stages_per_rank: int) -> list[Compute]:
    """What a rank computes, in order; stage = chunk x ranks + rank."""
    if stages_per_rank == 1:
        own = [(rank, m) for m in range(microbatches)]
        return alternating(own, own, ranks - rank - 1, "B")
    # Where the last group is not full, the order is that of a full one less what is not there: so nothing can wait in a circle.
    groups = [range(first, first + ranks) for first in range(0, microbatches, ranks)]
    forward = [
        (c * ranks + rank, m) for group in groups for c in range(stages_per_rank) for m in group
    ]
    backward = [
        (c * ranks + rank, m)
        for group in groups
        for c in reversed(range(stages_per_rank))
        for m in group
    ]
    order = alternating(
        forward, backward, 2 * (ranks - rank - 1) + (stages_per_rank - 1) * ranks, "B"
    )
    return [compute for compute in order if compute.microbatch < microbatches]
