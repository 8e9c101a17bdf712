"""Data parallelism: replicas of a stage sum their gradients once a step, many in one call.

A bucket's sum begins as soon as the last backward of its stage, or the last W, has made all its
gradients: the rest runs meanwhile. Buckets, and when they begin, follow from the plan alone, so that
all replicas call in one order.
"""

from collections.abc import Sequence

from torch import nn

from pipecut.runtime.gradients.buckets import Sum, buckets
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.shards import Shards


class ReplicaGradients:
    """The parameters of this rank, whose gradients the same stages of other replicas have too.

    `alone` has those of each stage that no other stage has: where the stage ends, their gradients are whole.
    """

    def __init__(
        self, replicas: int, masters: Masters, shards: Shards, alone: dict[int, list[nn.Parameter]]
    ) -> None:
        self.masters, self.shards = masters, shards
        trained = (
            {stage: [p for p in own if p.requires_grad] for stage, own in alone.items()}
            if replicas > 1
            else {}
        )
        self.parameters = (
            [masters.of[id(p)] for p in masters.parameters if p.requires_grad]
            if replicas > 1
            else []
        )
        single = {id(masters.of[id(p)]) for own in trained.values() for p in own}
        # Of each stage; backward makes the last first.
        self.buckets = {
            stage: self._bucketed([masters.of[id(p)] for p in reversed(own)])
            for stage, own in trained.items()
        }
        self.tied = self._bucketed([p for p in self.parameters if id(p) not in single])
        self.works: list[Sum] = []
        # How many buckets of a stage have begun; ids of what has its whole gradient.
        self.begun = dict.fromkeys(self.buckets, 0)
        self.whole: set[int] = set()
        self.ending: int | None = None
        for stage, own in trained.items():
            for parameter in own:
                parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    lambda made, stage=stage: self.made(made, stage)
                )

    def _bucketed(self, parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
        """Those whose rows are summed apart from those that are summed whole."""
        parts = [[p for p in parameters if self.shards.evenly(p) == even] for even in (True, False)]
        return [bucket for part in parts for bucket in buckets(part)]

    def ends(self, stage: int | None) -> None:
        """What comes next is the last of this step to make gradients of the stage's parameters; None when it does not.

        Where it did, those of the stage are whole.
        """
        if self.ending is not None:
            self._begin(self.ending, every=True)
        self.ending = stage

    def made(self, parameter: nn.Parameter, stage: int) -> None:
        """A parameter of a stage has a gradient to which the action that runs adds no more."""
        if self.ending == stage and stage in self.buckets:
            self.whole.add(id(self.masters.of[id(parameter)]))
            self._begin(stage, every=False)

    def _begin(self, stage: int, every: bool) -> None:
        """Sum the stage's buckets that are whole, or all that are left, always in their order."""
        for bucket in self.buckets.get(stage, [])[self.begun.get(stage, 0) :]:
            if not every and any(id(parameter) not in self.whole for parameter in bucket):
                return
            self._sum(bucket)
            self.begun[stage] += 1

    def _sum(self, bucket: list[nn.Parameter]) -> None:
        self.works += self.shards.sum(
            [parameter for parameter in bucket if parameter.grad is not None]
        )

    def reduce(self) -> None:
        """Sum over the replicas. Each microbatch's loss is weighted by its share of the whole batch, so a sum is the mean."""
        self.ends(None)
        for stage in self.buckets:
            self._begin(stage, every=True)
        for bucket in self.tied:
            self._sum(bucket)
        for work in self.works:
            work.wait()
        self.works.clear()
        self.whole.clear()
        self.begun = dict.fromkeys(self.buckets, 0)
        for parameter in self.parameters:
            self.shards.hand_over(parameter)
