"""The V (Qi et al., Pipeline Parallelism with Controllable Memory, 2024): two stages per rank.

Rank r has stage r and stage 2 x ranks - 1 - r, so the loss is on rank 0, where a microbatch began,
and every rank holds about as much. Backward is split as in ZB-H1. The order is that of a greedy run
in which F, I and W of each stage take equally long: gradients of inputs first, then the forward of
the later stage, then of the earlier one, and gradients of weights when nothing else can run. A rank
holds as many activations as the first rank under 1F1B.

Two ranks (stages 0 and 3 on rank 0; lower case is the later stage of a rank):

rank 0   F0 F1 F2 f0 i0 w0 f1 I0 i1 W0 w1 I1 F3 f2 i2 W1 w2 I2 W2 f3 i3 w3 .  I3 W3
rank 1   .  F0 f0 F1 f1 i0 I0 w0 W0 i1 I1 F2 f2 w1 W1 i2 I2 F3 f3 w2 W2 i3 I3 w3 W3
"""

from collections import deque
from functools import lru_cache

from pipecut.compiler.schedules.schedule import Schedule
from pipecut.plan.actions import Compute


def order(rank: int, ranks: int, microbatches: int, stages_per_rank: int) -> list[Compute]:
    """What a rank computes; its stages are rank and 2 x ranks - 1 - rank."""
    return list(_run(ranks, microbatches)[rank])


@lru_cache(maxsize=64)
def _run(ranks: int, microbatches: int) -> tuple[tuple[Compute, ...], ...]:
    """All ranks, step by step: in each, a rank does one thing that the steps before made possible."""
    last = 2 * ranks - 1
    orders: list[list[Compute]] = [[] for _ in range(ranks)]
    done: set[Compute] = set()
    # Next microbatch by stage, as microbatches go through a stage in order.
    forward, back = [0] * (last + 1), [0] * (last + 1)
    later: list[deque[Compute]] = [deque() for _ in range(ranks)]
    # Microbatches, of either stage, that are between forward and the gradients of weights.
    held = [0] * ranks
    while any(m < microbatches for m in back) or any(later):
        step: list[Compute] = []
        for rank in range(ranks):
            ready = _ready(rank, last, microbatches, done, forward, back)
            if held[rank] >= 2 * ranks - 1:
                # Room for one more is left to the stage that lets others go.
                ready = [c for c in ready if c.op != "F" or c.stage != rank]
            if held[rank] >= 2 * ranks:
                ready = [c for c in ready if c.op == "I"]
            if not ready and not later[rank]:
                continue
            chosen = ready[0] if ready else later[rank].popleft()
            match chosen:
                case Compute("F", stage):
                    forward[stage] += 1
                    held[rank] += 1
                case Compute("I", stage, microbatch):
                    back[stage] += 1
                    later[rank].append(Compute("W", stage, microbatch))
                case Compute():
                    held[rank] -= 1
            step.append(chosen)
            orders[rank].append(chosen)
        done |= set(step)
    return tuple(map(tuple, orders))


def _ready(
    rank: int, last: int, microbatches: int, done: set[Compute], forward: list[int], back: list[int]
) -> list[Compute]:
    """What can run now, the most pressing first."""
    stages = (last - rank, rank)
    ready: list[Compute] = []
    for stage in stages:
        m = back[stage]
        if (
            m < microbatches
            and Compute("F", stage, m) in done
            and (stage == last or Compute("I", stage + 1, m) in done)
        ):
            ready.append(Compute("I", stage, m))
    ready.sort(key=lambda c: (c.microbatch, -c.stage))
    for stage in stages:
        m = forward[stage]
        if m < microbatches and (stage == 0 or Compute("F", stage - 1, m) in done):
            ready.append(Compute("F", stage, m))
    return ready


V_SHAPED = Schedule(
    name="v-shaped",
    order=order,
    idle="about (p - 1) / 6 from 2 p microbatches on",
    activations="at most p on every rank, about as many on each",
    stages_per_rank=2,
    returns=True,
    splits_backward=True,
)
