"""Which rank runs which stage of which replica: the only arithmetic between them.

Replicas of one pipeline rank have neighbouring ranks, since the gradients that they sum are more
bytes than the activations that go from stage to stage. Three pipeline ranks, two replicas:

    rank            0  1  2  3  4  5
    pipeline rank   0  0  1  1  2  2
    replica         0  1  0  1  0  1

Another dimension, such as a tensor-parallel degree, is one more field of `Place` and of
`RankLayout`, and changes `rank`, `place` and `size`: the rest builds on these three.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A rank's place in the pipeline of its replica, and its replica."""

    pipeline_rank: int
    replica: int = 0


@dataclass(frozen=True)
class RankLayout:
    """The pipeline rank of each stage, and how many replicas of the pipeline there are."""

    pipeline_rank_of: tuple[int, ...]
    replicas: int = 1

    @property
    def pipeline_ranks(self) -> int:
        """Ranks of one pipeline."""
        return len(set(self.pipeline_rank_of))

    @property
    def size(self) -> int:
        """Ranks of all replicas."""
        return self.pipeline_ranks * self.replicas

    def rank(self, place: Place) -> int:
        """The rank at a place."""
        return place.pipeline_rank * self.replicas + place.replica

    def place(self, rank: int) -> Place:
        """The place of a rank."""
        return Place(*divmod(rank, self.replicas))

    def rank_of(self, stage: int, replica: int = 0) -> int:
        """The rank that runs a stage of a replica."""
        return self.rank(Place(self.pipeline_rank_of[stage], replica))

    def replica_ranks(self, pipeline_rank: int) -> list[int]:
        """The ranks that run the same stages, one per replica."""
        return [self.rank(Place(pipeline_rank, replica)) for replica in range(self.replicas)]

    def pipeline(self, replica: int) -> list[int]:
        """The ranks of one replica, from the first pipeline rank to the last."""
        return [self.rank(Place(p, replica)) for p in range(self.pipeline_ranks)]

    def stages_of(self, pipeline_rank: int) -> list[int]:
        """The stages on a pipeline rank."""
        return [s for s, p in enumerate(self.pipeline_rank_of) if p == pipeline_rank]

    def changes_rank(self, boundary: int) -> bool:
        """Whether the stages before and after a boundary are on two ranks."""
        return self.pipeline_rank_of[boundary] != self.pipeline_rank_of[boundary + 1]
