"""Data parallelism: replicas of a stage sum their gradients once per step, many in one call.

A bucket's sum begins as soon as the last backward of its stage, or the last W, has made all its
gradients: the rest of the step runs meanwhile. Buckets, and when their sums begin, follow from
nothing but the plan, so all replicas call in one order.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from pipecut.runtime.gradients.buckets import Collective, buckets
from pipecut.runtime.gradients.parameters import RankParameter, on_gradient
from pipecut.runtime.gradients.shards import Shards

Bucket = list[RankParameter]
# What a gradient is; of two that are summed, the later one here is what both become.
NONE, SPARSE, DENSE = range(3)


class ReplicaGradients:
    """Sums the gradients of this rank's parameters with those of the same stages in other replicas.

    A parameter that only one stage uses has its whole gradient after that stage's last backward.
    Shared ones are summed at the step's end, once their stages have summed theirs (see tied.py).
    Where the data decides which parameters get a gradient, replicas compare that before.
    """

    def __init__(self, replicas: int, parameters: Sequence[RankParameter], shards: Shards) -> None:
        self.shards = shards
        self.summed = [p for p in parameters if p.model.requires_grad] if replicas > 1 else []
        unshared = [p for p in self.summed if len(p.stages) == 1 and not p.tied_ranks]
        self.unshared = {parameter.model: parameter for parameter in unshared}
        self.shared = [p for p in self.summed if p.model not in self.unshared]
        # Backward makes the gradients of a stage's last parameters first.
        self.buckets = {
            stage: self._bucketed([p for p in reversed(unshared) if p.stages == (stage,)])
            for stage in dict.fromkeys(stage for p in unshared for stage in p.stages)
        }
        self.shared_buckets = self._bucketed(self.shared)
        self.begun: list[Collective] = []
        self.buckets_begun = dict.fromkeys(self.buckets, 0)
        # Those to whose gradients this step adds no more.
        self.ready: set[RankParameter] = set()
        self.ending_stage: int | None = None
        # After the hooks of Masters, which are called first and hold what is summed.
        for parameter in unshared:
            on_gradient(parameter.model, self.gradient_ready)

    def last_backward_of(self, stage: int | None) -> None:
        """Call before each action: whose stage's gradients it is the last of this step to add to.

        None for an action that is the last of no stage. Gradients of the stage of the call before
        are whole now.
        """
        if self.ending_stage is not None:
            self._begin(self.ending_stage, all_left=True)
        self.ending_stage = stage

    def gradient_ready(self, model: nn.Parameter) -> None:
        """Call when the action that runs adds no more to a parameter's gradient."""
        parameter = self.unshared.get(model)
        if parameter is not None and parameter.stages == (self.ending_stage,):
            self.ready.add(parameter)
            self._begin(parameter.stages[0], all_left=False)

    def reduce(self) -> None:
        """Sum over the replicas.

        Each microbatch's loss is weighted by its share of the whole batch, so a sum is the mean.
        """
        self.last_backward_of(None)
        for stage in self.buckets:
            self._begin(stage, all_left=True)
        self._complete(self.shared)
        for bucket in self.shared_buckets:
            self._sum(bucket)
        for collective in self.begun:
            collective.wait()
        self.begun.clear()
        self.ready.clear()
        self.buckets_begun = dict.fromkeys(self.buckets, 0)
        for parameter in self.summed:
            self.shards.hand_over(parameter)

    def _complete(self, parameters: Sequence[RankParameter]) -> None:
        """Zeros where only other replicas made a gradient: all sum the same ones.

        What no replica made stays None: an optimizer passes over it, as unsplit.
        """
        by_data = [parameter for parameter in parameters if parameter.beside_opaque]
        if not by_data:
            return
        layouts = [_layout(parameter.master.grad) for parameter in by_data]
        of_all = torch.tensor(layouts, device=by_data[0].master.device)
        dist.all_reduce(of_all, dist.ReduceOp.MAX, group=self.shards.world.replica_group)
        for parameter, layout in zip(by_data, of_all.tolist(), strict=True):
            master = parameter.master
            if layout != NONE and master.grad is None:
                zeros = torch.zeros_like(master, requires_grad=False)
                master.grad = zeros.to_sparse(1) if layout == SPARSE else zeros
            elif layout == DENSE and master.grad is not None:
                master.grad = master.grad.to_dense()

    def _bucketed(self, parameters: Sequence[RankParameter]) -> list[Bucket]:
        """Buckets, those whose rows are summed apart from those that are summed whole."""
        by_evenness = [
            [p for p in parameters if self.shards.is_even(p) == e] for e in (True, False)
        ]
        return [bucket for part in by_evenness for bucket in buckets(part, lambda p: p.master)]

    def _begin(self, stage: int, all_left: bool) -> None:
        """Sum the stage's buckets that are ready, or all that are left, always in their order."""
        left = self.buckets.get(stage, [])[self.buckets_begun.get(stage, 0) :]
        by_data = [p for bucket in left for p in bucket if p.beside_opaque]
        if by_data and not all_left:
            return
        self._complete(by_data)
        for bucket in left:
            if not all_left and not self.ready.issuperset(bucket):
                return
            self._sum(bucket)
            self.buckets_begun[stage] += 1

    def _sum(self, bucket: Bucket) -> None:
        self.begun += self.shards.sum([p for p in bucket if p.master.grad is not None])


def _layout(gradient: torch.Tensor | None) -> int:
    if gradient is None:
        return NONE
    return DENSE if gradient.layout == torch.strided else SPARSE
