"""The V (Qi et al., Pipeline Parallelism with Controllable Memory, 2024): two stages a rank, there and back again.

Rank r has stage r and stage 2 x ranks - 1 - r, so the loss is on rank 0, where a microbatch began, and every rank holds about as
much. Backward is split as in ZB-H1. The order is that of a greedy run in which each stage's three parts take equally long: the
gradient of an input first, then the forward of the later stage, of the earlier one, and of weights when nothing else can run. A
rank holds as many activations as the first rank under 1F1B.
"""

from collections import deque
from functools import lru_cache

from pipecut.compiler.schedules.order import Compute


def v_shaped(rank: int, ranks: int, microbatches: int, stages_per_rank: int) -> list[Compute]:
    """What a rank computes, in order; `stages_per_rank` is 2."""
    return list(_run(ranks, microbatches)[rank])


@lru_cache(maxsize=64)
def _run(ranks: int, microbatches: int) -> tuple[tuple[Compute, ...], ...]:
    """All ranks, step by step: in each, a rank does one thing that the steps before made possible."""
    last = 2 * ranks - 1
    orders: list[list[Compute]] = [[] for _ in range(ranks)]
    done: set[Compute] = set()
    # Next microbatch by stage, as microbatches go through a stage in order.
    forward, back = [0] * (last + 1), [0] * (last + 1)
    later: list[deque[tuple[int, int]]] = [deque() for _ in range(ranks)]
    # Microbatches, of either stage, that are between forward and the gradients of weights.
    held = [0] * ranks
    while any(m < microbatches for m in back) or any(later):
        step: list[Compute] = []
        for rank in range(ranks):
            ready = _ready(rank, last, microbatches, done, forward, back)
            if held[rank] >= 2 * ranks - 1:
                # Room for one more is left to the stage that lets others go.
                ready = [one for one in ready if one[:2] != ("F", rank)]
            if held[rank] >= 2 * ranks:
                ready = [one for one in ready if one[0] == "I"]
            chosen = ready[0] if ready else ("W", *later[rank][0]) if later[rank] else None
            if chosen is None:
                continue
            kind, stage, _ = chosen
            if kind == "W":
                later[rank].popleft()
                held[rank] -= 1
            elif kind == "F":
                forward[stage] += 1
                held[rank] += 1
            else:
                back[stage] += 1
                later[rank].append(chosen[1:])
            step.append(chosen)
            orders[rank].append(chosen)
        done |= set(step)
    return tuple(map(tuple, orders))


def _ready(
    rank: int, last: int, microbatches: int, done: set[Compute], forward: list[int], back: list[int]
) -> list[Compute]:
    """What can run now, the most pressing first."""
    here = (last - rank, rank)
    found: list[Compute] = []
    for stage in here:
        m = back[stage]
        if (
            m < microbatches
            and ("F", stage, m) in done
            and (stage == last or ("I", stage + 1, m) in done)
        ):
            found.append(("I", stage, m))
    found.sort(key=lambda one: (one[2], -one[1]))
    for stage in here:
        m = forward[stage]
        if m < microbatches and (stage == 0 or ("F", stage - 1, m) in done):
            found.append(("F", stage, m))
    return found
