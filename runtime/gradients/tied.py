"""Tied parameters: one gradient over all stages that use them, summed as autograd would."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from pipecut.plan.schema import Plan
from pipecut.runtime.gradients.parameters import RankParameter
from pipecut.runtime.ranks.world import World


def share_tied(plan: Plan, modules: dict[int, nn.Module]) -> None:
    """Make stages of one rank, by index, hold the same tied parameters as the same objects."""
    for tied in plan.tied:
        first: nn.Parameter | None = None
        for index in tied.stages:
            if index not in modules:
                continue
            for name in tied.names:
                module_name, _, last = name.rpartition(".")
                owner = modules[index].get_submodule(module_name)
                first = first if first is not None else owner.get_parameter(last)
                owner.register_parameter(last, first)


class TiedGradients:
    """Sums the gradients of parameters that other ranks of this replica hold, too."""

    def __init__(self, world: World, parameters: Sequence[RankParameter]) -> None:
        # Groups are looked up where they are used: only the world holds them, and lets go at the
        # end.
        self.world = world
        tied = (parameter for parameter in parameters if parameter.tied_ranks)
        # A rank meets its parameters in the order of its own stages, which is not that of another
        # rank's stages: by name, all ranks sum them in one order.
        self.parameters = sorted(tied, key=lambda parameter: parameter.name)
        # Those that had a gradient on some stage, and have one in each step, whatever the data.
        self.with_gradient: set[RankParameter] = set()

    def reduce(self) -> None:
        """Sum over the stages, the last first: the order in which autograd meets the uses."""
        for parameter in self.parameters:
            master, group = parameter.master, self.world.tied[parameter.tied_ranks]
            if not self._has_gradient(parameter, group):
                # No stage made one: an optimizer passes over the parameter, as unsplit.
                continue
            gradient = master.grad if master.grad is not None else _zeros_like(master)
            if len(parameter.tied_ranks) == 2:
                # Of two summands any order is the same.
                total = gradient.contiguous()
                dist.all_reduce(total, group=group)
                master.grad = total
            else:
                master.grad = _sum_from_the_last(gradient, len(parameter.tied_ranks), group)

    def _has_gradient(self, parameter: RankParameter, group: dist.ProcessGroup) -> bool:
        """Whether any of its stages made a gradient."""
        if parameter in self.with_gradient:
            return True
        here = parameter.master.grad is not None
        flag = torch.tensor(float(here), device=parameter.master.device)
        dist.all_reduce(flag, group=group)
        made = bool(flag.item())
        if made and not parameter.beside_opaque:
            self.with_gradient.add(parameter)
        return made


def _sum_from_the_last(
    gradient: torch.Tensor, ranks: int, group: dist.ProcessGroup
) -> torch.Tensor:
    parts = [
        torch.empty_like(gradient, memory_format=torch.contiguous_format) for _ in range(ranks)
    ]
    dist.all_gather(parts, gradient.contiguous(), group=group)
    total = parts[-1]
    for part in reversed(parts[:-1]):
        total = total + part
    return total


def _zeros_like(master: nn.Parameter) -> torch.Tensor:
    return torch.zeros(master.shape, dtype=master.dtype, device=master.device)
