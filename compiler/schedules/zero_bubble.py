"""ZB-H1 (Qi et al., Zero Bubble Pipeline Parallelism, 2024): backward in two, of inputs (I) first, of weights (W) later.

As 1F1B, but the next rank waits for I alone, and what is left to do for W fills the gaps: rank r is r weights behind. About a
third of 1F1B's bubble is left where the three take equally long. A rank holds at most `ranks` microbatches.

rank 0   F0 F1 .  I0 W0 F2 I1 W1 .  I2 W2
rank 1   .  F0 I0 F1 I1 W0 F2 I2 W1 W2
"""

from pipecut.compiler.schedules.order import alternating
from pipecut.plan.actions import Compute


def zero_bubble(rank: int, ranks: int, microbatches: int, stages_per_rank: int) -> list[Compute]:
    """What a rank computes, in order; stage = rank, `stages_per_rank` is 1."""
    own = [(rank, m) for m in range(microbatches)]
    order: list[Compute] = []
    for compute in alternating(own, own, ranks - rank - 1, "I"):
        order.append(compute)
        if compute.op == "I" and compute.microbatch >= rank:
            order.append(Compute("W", rank, compute.microbatch - rank))
    last = range(max(0, microbatches - rank), microbatches)
    return order + [Compute("W", rank, m) for m in last]
