"""The sizes and the schedule that are fixed before operators are placed."""

from dataclasses import dataclass

from pipecut.compiler.schedules.registry import in_flight, pipeline_ranks_of
from pipecut.plan.layout import RankLayout
from pipecut.quantities import counted


@dataclass(frozen=True)
class Candidate:
    """What a plan is made with, before any operator is placed.

    `replicas` of each stage, samples per `microbatch`, and `microbatches` per step of each replica.
    """

    stages: int
    replicas: int
    microbatch: int
    microbatches: int
    schedule: str
    stages_per_rank: int = 1

    def __str__(self) -> str:
        """`16 stages x 4 replicas, 32 microbatches of 2, 1f1b`."""
        ranks = f" on {self.ranks} ranks" if self.stages_per_rank > 1 else ""
        return (
            f"{counted(self.stages, 'stage')}{ranks} x {counted(self.replicas, 'replica')}, "
            f"{counted(self.microbatches, 'microbatch')} of {self.microbatch}, {self.schedule}"
        )

    @property
    def layout(self) -> RankLayout:
        """Which rank, and so which device of the cluster, runs which stage of which replica."""
        ranks = pipeline_ranks_of(self.schedule, self.stages, self.stages_per_rank)
        return RankLayout(ranks, self.replicas)

    @property
    def ranks(self) -> int:
        """Ranks of one pipeline."""
        return self.stages // self.stages_per_rank

    @property
    def devices(self) -> int:
        """Devices that it takes."""
        return self.layout.size

    def in_flight_per_stage(self, stages: int) -> tuple[int, ...]:
        """Microbatches in flight on each of a number of stages."""
        if stages % self.stages_per_rank:
            return (self.microbatches,) * stages
        return in_flight(self.schedule, stages, self.microbatches, self.stages_per_rank)
