"""Tied parameters: one gradient over all stages that use them, summed as autograd would."""

import torch
import torch.distributed as dist
from torch import nn

from pipecut.plan.schema import Plan
from pipecut.runtime.ranks.world import World


def share_tied(plan: Plan, modules: dict[int, nn.Module]) -> None:
    """Stages of one rank, by index, hold the same tied parameters as the same objects."""
    for tied in plan.tied:
        first: nn.Parameter | None = None
        for index in tied.stages:
            if index not in modules:
                continue
            for name in tied.names:
                owner = modules[index].get_submodule(name.rpartition(".")[0])
                first = first if first is not None else owner.get_parameter(name.rpartition(".")[2])
                owner.register_parameter(name.rpartition(".")[2], first)


class TiedGradients:
    """The tied parameters of this rank."""

    def __init__(self, plan: Plan, world: World, parameters: dict[str, nn.Parameter]) -> None:
        self.world = world
        pipeline_rank_of = {s.index: world.rank_at(s.pipeline_rank) for s in plan.stages}
        # The group is looked up where it is used: the world alone holds groups, and lets go of them at the end.
        self.mine: list[tuple[nn.Parameter, tuple[int, ...]]] = []
        # The rank that is first to have each, by the first of their names.
        self.owners: dict[str, int] = {}
        for tied in plan.tied:
            ranks = tuple(sorted({pipeline_rank_of[s] for s in tied.stages}))
            # Stages of one rank share the parameter itself.
            if world.rank in ranks and len(ranks) > 1:
                parameter = parameters[tied.names[0]]
                self.mine.append((parameter, ranks))
                self.owners[tied.names[0]] = min(ranks)

    @property
    def owned_elsewhere(self) -> set[str]:
        """Those that an earlier rank has too, by the first of their names."""
        return {name for name, owner in self.owners.items() if owner != self.world.rank}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that other ranks have too."""
        return [parameter for parameter, _ in self.mine]

    def reduce(self) -> None:
        """Sum over the stages, last stage first: the order in which autograd meets the uses; of two, any order is the same."""
        for parameter, ranks in self.mine:
            own = (
                parameter.grad
                if parameter.grad is not None
                else torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
            )
            if len(ranks) == 2:
                total = own.contiguous()
                dist.all_reduce(total, group=self.world.tied[ranks])
                parameter.grad = total
                continue
            parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in ranks]
            dist.all_gather(parts, own.contiguous(), group=self.world.tied[ranks])
            total = parts[-1]
            for part in reversed(parts[:-1]):
                total = total + part
            parameter.grad = total
