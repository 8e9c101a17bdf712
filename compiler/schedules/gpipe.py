"""GPipe (Huang et al., 2019): all forwards, then all backwards.

rank 0   F0 F1 F2 .  .  .  .  B0 B1 B2
rank 1   .  F0 F1 F2 .  .  B0 B1 B2 .
rank 2   .  .  F0 F1 F2 B0 B1 B2 .  .
"""

from pipecut.plan.actions import Compute, Op


def gpipe(rank: int, ranks: int, microbatches: int, stages_per_rank: int) -> list[Compute]:
    """What a rank computes, in order; stage = rank, `stages_per_rank` is 1."""
    ops: tuple[Op, ...] = ("F", "B")
    return [Compute(op, rank, m) for op in ops for m in range(microbatches)]
