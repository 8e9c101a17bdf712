"""Masters and optimizer states divided over replicas: each steps some rows of every parameter.

As ZeRO's first stage (Rajbhandari et al., ZeRO, 2020). Weights and gradients stay whole, since each
microbatch of a step needs them, and to gather and scatter them for each would send them as many
times. See docs/decisions/0004.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import nn

from pipecut.plan.rows import divided, padded_rows, rows_of
from pipecut.runtime.gradients.buckets import (
    Collective,
    buckets,
    gather_parts,
    sum_parts,
    sum_whole,
)
from pipecut.runtime.gradients.parameters import RankParameter
from pipecut.runtime.ranks.world import World


def shard(parameters: list[RankParameter], shards: int, replica: int) -> None:
    """Give the optimizer only this replica's rows of each parameter that is divided, in place.

    A float32 parameter's rows are a view of it, so that a step of the optimizer changes it in
    place. A half-precision parameter keeps its master's values, rounded. One by one, so that the
    memory of a master is free before the next rows are copied.
    """
    for index, parameter in enumerate(parameters):
        model = parameter.model
        if not (model.requires_grad and divided(model.shape, shards)):
            continue
        begin, end = rows_of(model.shape, shards, replica)
        rows, master = parameter.master.detach()[begin:end], parameter.master
        stepped = nn.Parameter(rows.clone() if parameter.has_master else rows)
        if parameter.has_master:
            model.detach().copy_(master.detach())
            master = drop_values(master)
        parameters[index] = replace(parameter, master=master, stepped=stepped, rows=(begin, end))


def drop_values(master: nn.Parameter) -> nn.Parameter:
    """A parameter like a master that takes its gradient, and has memory for one element only."""
    zero = torch.zeros((), dtype=master.dtype, device=master.device)
    return nn.Parameter(zero.expand(master.shape))


class Shards:
    """Sums gradients where their rows are stepped, and gathers stepped rows."""

    def __init__(self, world: World, parameters: Sequence[RankParameter]) -> None:
        self.world = world
        self.sharded = [parameter for parameter in parameters if parameter.rows is not None]

    def is_even(self, parameter: RankParameter) -> bool:
        """Whether a parameter is sharded with as many rows for each replica."""
        return parameter.rows is not None and parameter.model.shape[0] % self.world.replicas == 0

    def sum(self, parameters: Sequence[RankParameter]) -> list[Collective]:
        """Begin to sum gradients of one type over the replicas, in one call.

        Each row where it is stepped, where all replicas have as many; else whole.
        """
        group = self.world.replica_group
        assert group is not None
        parts: list[torch.Tensor] = []
        undivided: list[torch.Tensor] = []
        sparse: list[torch.Tensor] = []
        for parameter in parameters:
            gradient = parameter.master.grad
            assert gradient is not None
            if gradient.layout != torch.strided:
                sparse.append(gradient)
                continue
            gradient = parameter.master.grad = gradient.contiguous()
            (parts if self.is_even(parameter) else undivided).append(gradient)
        begun: list[Collective] = []
        for gradient in sparse:
            work = dist.all_reduce(gradient, group=group, async_op=True)
            begun += [work] if work is not None else []
        begun += [sum_whole(undivided, group)] if undivided else []
        begun += [sum_parts(parts, group)] if parts else []
        return begun

    def hand_over(self, parameter: RankParameter) -> None:
        """Once it is summed, give this replica's rows of a gradient to what the optimizer has."""
        gradient = parameter.master.grad
        if parameter.rows is not None and gradient is not None:
            parameter.stepped.grad = gradient[slice(*parameter.rows)]
            parameter.master.grad = None

    def gather(self) -> None:
        """Bring rows into the parameters of every replica; all replicas must call it.

        All of them each time: what writes to `.data`, as some optimizers do, leaves no trace in a
        tensor's version.
        """
        group = self.world.replica_group
        if not self.sharded or group is None:
            return
        even: list[nn.Parameter] = []
        with torch.no_grad():
            for parameter in self.sharded:
                _copy_own_rows(parameter)
                if self.is_even(parameter) and parameter.model.is_contiguous():
                    even.append(parameter.model)
                else:
                    self._gather_padded(parameter.model, group)
            begun = [gather_parts(bucket, group) for bucket in buckets(even, lambda model: model)]
        for collective in begun:
            collective.wait()

    def _gather_padded(self, model: nn.Parameter, group: dist.ProcessGroup) -> None:
        """Gather where some replicas have a row more: each sends as many, with padding."""
        count = self.world.replicas
        rows = padded_rows(model.shape, count)
        rows_of_all = model.new_empty([count, rows, *model.shape[1:]])
        begin, end = rows_of(model.shape, count, self.world.replica)
        rows_of_all[self.world.replica, : end - begin].copy_(model.detach()[begin:end])
        gather_parts([rows_of_all], group).wait()
        for replica in range(count):
            begin, end = rows_of(model.shape, count, replica)
            model.detach()[begin:end].copy_(rows_of_all[replica, : end - begin])


def _copy_own_rows(parameter: RankParameter) -> None:
    """Round what the optimizer has stepped into the stage, where that is no view of it already."""
    assert parameter.rows is not None
    rows = parameter.model[slice(*parameter.rows)]
    if rows.data_ptr() != parameter.stepped.data_ptr():
        rows.copy_(parameter.stepped)
