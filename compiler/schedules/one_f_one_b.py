"""1F1B (Narayanan et al., PipeDream, 2019; with a flush, 2021): a rank holds at most ranks - rank microbatches.

rank 0   F0 F1 F2 .  .  B0 F3 .  B1 .  B2 .  B3
rank 1   .  F0 F1 .  B0 F2 .  B1 F3 B2 .  B3 .
rank 2   .  .  F0 B0 F1 .  B1 F2 B2 F3 B3 .  .
"""

from pipecut.compiler.schedules.order import alternating
from pipecut.plan.actions import Compute


def one_f_one_b(rank: int, ranks: int, microbatches: int, stages_per_rank: int) -> list[Compute]:
    """What a rank computes, in order; stage = rank, `stages_per_rank` is 1."""
    own = [(rank, m) for m in range(microbatches)]
    return alternating(own, own, ranks - rank - 1, "B")
