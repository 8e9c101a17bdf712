"""What a schedule says of itself, once: job file, command line, search and tables read it."""

from collections.abc import Callable
from dataclasses import dataclass

from pipecut.compiler.schedules.order import start_times
from pipecut.compiler.schedules.picture import picture_of
from pipecut.plan.actions import Compute


@dataclass(frozen=True)
class ComputeSeconds:
    """Seconds of any stage for a microbatch; `weights` is the part of `backward` that W takes."""

    forward: float
    backward: float
    weights: float = 0.0


def fill_and_drain(ranks: int, seconds: ComputeSeconds) -> float:
    """What a rank waits while the pipeline fills and drains (Narayanan et al., 2021, section 2.2).

    Where a rank has several stages, it does so through only one of them.
    """
    return (ranks - 1) * (seconds.forward + seconds.backward)


@dataclass(frozen=True)
class Schedule:
    """A schedule of one pipeline.

    `order(rank, ranks, microbatches, stages_per_rank)` is what a rank computes. `stages_per_rank`
    is None where the job chooses it. A schedule that `returns` gives rank r the stages r and
    2 x ranks - 1 - r, any other one every `ranks`-th stage from r on. One that `splits_backward`
    computes I and W in place of B. A `searched` one is tried with every size where sizes are auto,
    the others with the best sizes of these.

    `idle` and `activations` are for people: what a rank waits in a step, and what it holds.
    Closed forms, where there are any, for equal stages and messages that take nothing:
    `idle_seconds(ranks, seconds)` of a rank where microbatches are a multiple of the ranks,
    `in_flight_of(stages, microbatches)` microbatches that each stage holds at most.
    """

    name: str
    order: Callable[[int, int, int, int], list[Compute]]
    idle: str
    activations: str
    stages_per_rank: int | None = 1
    returns: bool = False
    splits_backward: bool = False
    searched: bool = False
    idle_seconds: Callable[[int, ComputeSeconds], float] | None = None
    in_flight_of: Callable[[int, int], tuple[int, ...]] | None = None

    def __str__(self) -> str:
        """The schedule of two ranks as a picture."""
        stages_per_rank = self.stages_per_rank or 2
        summary = f"{self.name}: idle {self.idle}; activations: {self.activations}"
        return f"{summary}\n{self.picture(2, 4, stages_per_rank)}"

    def picture(self, ranks: int, microbatches: int, stages_per_rank: int) -> str:
        """What each rank does in each unit of time, where every compute takes one.

        `F0` is the forward of microbatch 0; lower case is a rank's last stage, where it has two.
        """
        rows = [self.order(rank, ranks, microbatches, stages_per_rank) for rank in range(ranks)]
        starts = start_times(rows, ranks * stages_per_rank, lambda op, stage: 1)
        last = [max(compute.stage for compute in row) for row in rows]
        later = {*last} if stages_per_rank > 1 else set()

        def text_of(compute: Compute) -> str:
            op = compute.op.lower() if compute.stage in later else compute.op
            return f"{op}{compute.microbatch}"

        return picture_of(rows, starts, text_of)
