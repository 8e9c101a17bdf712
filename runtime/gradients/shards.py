"""Masters and optimizer states divided over the replicas of a stage: each has some rows of every parameter, and steps them.

As ZeRO's first stage (Rajbhandari et al., ZeRO, 2020). Weights and gradients stay whole, since each microbatch of a step needs
them, and to gather and scatter them for each would send them as many times. See docs/decisions/0004.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from pipecut.plan.rows import Rows, divided, padded_rows, rows_of
from pipecut.runtime.gradients.buckets import Sum, buckets, gather_parts, sum_parts, sum_whole
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.ranks.world import World


class Shards:
    """What the optimizer has of each parameter: its master, or this replica's rows of that.

    A float32 parameter's rows are a view of it, so that a step of the optimizer changes it in place.
    """

    def __init__(self, world: World, masters: Masters, shards: int) -> None:
        self.world = world
        # By id of what takes the gradient.
        self.of: dict[int, nn.Parameter] = {}
        # By id of what the optimizer has, where that is not all.
        self.rows: dict[int, Rows] = {}
        self.shards: list[tuple[nn.Parameter, nn.Parameter]] = []
        for parameter in masters.parameters:
            master = masters.of[id(parameter)]
            if not (parameter.requires_grad and divided(parameter.shape, shards)):
                self.of[id(master)] = master
                continue
            begin, end = rows_of(parameter.shape, shards, world.replica)
            rows = master.detach()[begin:end]
            shard = nn.Parameter(rows if master is parameter else rows.clone())
            self.of[id(masters.without_values(parameter))] = shard
            self.rows[id(shard)] = begin, end
            self.shards.append((parameter, shard))

    def evenly(self, parameter: nn.Parameter) -> bool:
        """Whether what takes a gradient has as many rows for each replica."""
        stepped = self.of[id(parameter)]
        return id(stepped) in self.rows and parameter.shape[0] % self.world.replicas == 0

    def sum(self, parameters: Sequence[nn.Parameter]) -> list[Sum]:
        """Begin to sum gradients of one type over the replicas, in one call.

        Each row where it is stepped, where all replicas have as many; otherwise whole.
        """
        group = self.world.replica_group
        assert group is not None
        parts: list[torch.Tensor] = []
        whole: list[torch.Tensor] = []
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            if gradient.layout == torch.strided:
                gradient = parameter.grad = gradient.contiguous()
            (
                parts if self.evenly(parameter) and gradient.layout == torch.strided else whole
            ).append(gradient)
        dense = [gradient for gradient in whole if gradient.layout == torch.strided]
        works: list[Sum | None] = [
            dist.all_reduce(gradient, group=group, async_op=True)
            for gradient in whole
            if gradient.layout != torch.strided
        ]
        works += [sum_whole(dense, group)] if dense else []
        works += [sum_parts(parts, group)] if parts else []
        return [work for work in works if work is not None]

    def hand_over(self, parameter: nn.Parameter) -> None:
        """Once it is summed, give this replica's rows of a gradient to what the optimizer has."""
        own = self.of[id(parameter)]
        if id(own) in self.rows and parameter.grad is not None:
            own.grad = parameter.grad[slice(*self.rows[id(own)])]
            parameter.grad = None

    def gather(self) -> None:
        """Bring rows into the parameters of every replica; all replicas must call it.

        Always, since what writes to `.data`, as some optimizers do, leaves no trace in a tensor's version.
        """
        group = self.world.replica_group
        if not self.shards or group is None:
            return
        whole: list[nn.Parameter] = []
        works: list[Sum] = []
        with torch.no_grad():
            for parameter, shard in self.shards:
                here = parameter[slice(*self.rows[id(shard)])]
                if here.data_ptr() != shard.data_ptr():
                    here.copy_(shard)
                if parameter.shape[0] % self.world.replicas == 0 and parameter.is_contiguous():
                    whole.append(parameter)
                else:
                    self._gather_padded(parameter, group)
            for bucket in buckets(whole):
                works.append(gather_parts(bucket, group))
        for work in works:
            work.wait()

    def _gather_padded(self, parameter: nn.Parameter, group: dist.ProcessGroup) -> None:
        """Where some replicas have a row more: each sends as many, and the last is of no use to others."""
        count, most = self.world.replicas, padded_rows(parameter.shape, self.world.replicas)
        everyone = parameter.new_empty([count, most, *parameter.shape[1:]])
        begin, end = rows_of(parameter.shape, count, self.world.replica)
        everyone[self.world.replica, : end - begin].copy_(parameter.detach()[begin:end])
        gather_parts([everyone], group).wait()
        for replica in range(count):
            begin, end = rows_of(parameter.shape, count, replica)
            parameter.detach()[begin:end].copy_(everyone[replica, : end - begin])
