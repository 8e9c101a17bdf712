"""Masters and optimizer states divided over the replicas of a stage: each has some rows of every parameter, and steps them.

As ZeRO's first stage (Rajbhandari et al., ZeRO, 2020). Weights and gradients stay whole, since each microbatch of a step needs
them, and to gather and scatter them for each would send them as many times. See docs/decisions/0004.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from pipecut.runtime.masters import Masters
from pipecut.runtime.world import World

# From the first row to the one after the last.
Rows = tuple[int, int]


def divided(shape: Sequence[int], shards: int) -> bool:
    """Whether each of so many replicas has rows of a parameter; one with fewer rows is whole on all."""
    return shards > 1 and len(shape) > 0 and shape[0] >= shards


def rows_of(shape: Sequence[int], shards: int, replica: int) -> Rows:
    """Those of one replica, as even as can be."""
    return replica * shape[0] // shards, (replica + 1) * shape[0] // shards


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

    def sum(self, parameter: nn.Parameter) -> list[dist.Work]:
        """Begin to sum a gradient over the replicas: whole, or each row where it is stepped."""
        assert parameter.grad is not None
        group = self.world.peers
        if id(self.of[id(parameter)]) not in self.rows:
            works = [dist.all_reduce(parameter.grad, group=group, async_op=True)]
        else:
            parameter.grad = parameter.grad.contiguous()
            works = [dist.reduce(part, group=group, group_dst=r, async_op=True) for r, part in self._parts(parameter.grad)]
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
        works: list[dist.Work | None] = []
        with torch.no_grad():
            for parameter, shard in self.shards:
                here = parameter[slice(*self.rows[id(shard)])]
                if here.data_ptr() != shard.data_ptr():
                    here.copy_(shard)
                group = self.world.peers
                works += [dist.broadcast(part, group=group, group_src=r, async_op=True) for r, part in self._parts(parameter)]
        for work in works:
            if work is not None:
                work.wait()

    def _parts(self, tensor: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """Each replica and its rows."""
        count = self.world.replicas
        return [(replica, tensor.detach()[slice(*rows_of(tensor.shape, count, replica))]) for replica in range(count)]
