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
    """The orders of all ranks."""
    greedy = _Greedy(ranks, microbatches)
    while greedy.unfinished:
        greedy.step()
    return tuple(map(tuple, greedy.orders))


class _Greedy:
    """A run of all ranks, step by step; microbatches go through a stage in order."""

    def __init__(self, ranks: int, microbatches: int) -> None:
        self.ranks, self.microbatches = ranks, microbatches
        stages = 2 * ranks
        self.last_stage = stages - 1
        self.orders: list[list[Compute]] = [[] for _ in range(ranks)]
        self.done: set[Compute] = set()
        # The next microbatch of each stage, forward and backward.
        self.forward, self.backward = [0] * stages, [0] * stages
        # W that each rank may compute, the oldest first.
        self.weights: list[deque[Compute]] = [deque() for _ in range(ranks)]
        # Microbatches, of either stage of a rank, that are between F and W.
        self.in_flight = [0] * ranks

    @property
    def unfinished(self) -> bool:
        """Whether a backward, or the gradients of weights, are left to do."""
        return any(m < self.microbatches for m in self.backward) or any(self.weights)

    def step(self) -> None:
        """Let every rank do one thing that the steps before made possible."""
        chosen = [self._choose(rank) for rank in range(self.ranks)]
        for rank, compute in enumerate(chosen):
            if compute is not None:
                self._start(rank, compute)
        self.done |= {compute for compute in chosen if compute is not None}

    def _choose(self, rank: int) -> Compute | None:
        """What is most pressing; None where nothing can run."""
        ready = self._backward_ready(rank)
        # A rank holds no more than the first rank under 1F1B; the last place is left to the later
        # stage, which lets microbatches go.
        if self.in_flight[rank] < 2 * self.ranks:
            ready += self._forward_ready(self.last_stage - rank)
        if self.in_flight[rank] < 2 * self.ranks - 1:
            ready += self._forward_ready(rank)
        ready += self.weights[rank]
        return ready[0] if ready else None

    def _backward_ready(self, rank: int) -> list[Compute]:
        """The oldest microbatch first, and of one microbatch the later stage."""
        ready = []
        for stage in (self.last_stage - rank, rank):
            m = self.backward[stage]
            arrived = stage == self.last_stage or Compute("I", stage + 1, m) in self.done
            if m < self.microbatches and Compute("F", stage, m) in self.done and arrived:
                ready.append(Compute("I", stage, m))
        return sorted(ready, key=lambda compute: (compute.microbatch, -compute.stage))

    def _forward_ready(self, stage: int) -> list[Compute]:
        m = self.forward[stage]
        arrived = stage == 0 or Compute("F", stage - 1, m) in self.done
        return [Compute("F", stage, m)] if m < self.microbatches and arrived else []

    def _start(self, rank: int, compute: Compute) -> None:
        stage = compute.stage
        match compute.op:
            case "F":
                self.forward[stage] += 1
                self.in_flight[rank] += 1
            case "I":
                self.backward[stage] += 1
                self.weights[rank].append(Compute("W", stage, compute.microbatch))
            case _:
                self.weights[rank].popleft()
                self.in_flight[rank] -= 1
        self.orders[rank].append(compute)


V_SHAPED = Schedule(
    name="v-shaped",
    order=order,
    idle="about (p - 1) / 6 from 2 p microbatches on",
    activations="at most p on every rank, about as many on each",
    stages_per_rank=2,
    returns=True,
    splits_backward=True,
)
