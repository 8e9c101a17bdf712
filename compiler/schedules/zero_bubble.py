"""ZB-H1 (Qi et al., Zero Bubble Pipeline Parallelism, 2024): backward in two parts.

As 1F1B, but the next rank waits only for the gradients of inputs (I), and those of weights (W)
come later and fill the gaps: rank r is r of them behind. About a third of 1F1B's bubble is left
where F, I and W take equally long. A rank holds at most `ranks` microbatches.

rank 0   F0 F1 .  I0 W0 F2 I1 W1 I2 W2
rank 1   .  F0 I0 F1 I1 W0 F2 I2 W1 W2
"""

from pipecut.compiler.schedules.order import alternating
from pipecut.compiler.schedules.schedule import ComputeSeconds, Schedule
from pipecut.plan.actions import Compute


def order(rank: int, ranks: int, microbatches: int, stages_per_rank: int) -> list[Compute]:
    """What a rank computes; stage = rank."""
    parts = [(rank, m) for m in range(microbatches)]
    computes: list[Compute] = []
    for compute in alternating(parts, parts, ranks - rank - 1, "I"):
        computes.append(compute)
        if compute.op == "I" and compute.microbatch >= rank:
            computes.append(Compute("W", rank, compute.microbatch - rank))
    last = range(max(0, microbatches - rank), microbatches)
    return computes + [Compute("W", rank, m) for m in last]


def idle_seconds(ranks: int, seconds: ComputeSeconds) -> float:
    """(p - 1) (F + I - W), table 2 of the paper; 1F1B has (p - 1) (F + I + W)."""
    return (ranks - 1) * (seconds.forward + seconds.backward - 2 * seconds.weights)


ZERO_BUBBLE = Schedule(
    name="zb-h1",
    order=order,
    idle="(p - 1) / 3: gradients of weights come later and fill the gaps",
    activations="p on every rank",
    splits_backward=True,
    idle_seconds=idle_seconds,
)
