"""The loss of a whole batch on every rank, from the ranks of the last stage."""

import torch
import torch.distributed as dist

from pipecut.plan.schema import Plan
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.ranks.world import World


def share_loss(plan: Plan, world: World, loss: torch.Tensor | None) -> torch.Tensor:
    """The sum of the replicas' parts of the loss, on every rank.

    `loss` is this rank's part where it has the last stage, None elsewhere.
    """
    if world.size == 1:
        assert loss is not None
        return loss
    shared = loss.float() if loss is not None else torch.zeros((), device=world.device)
    with naming_errors(f"rank {world.rank}, sharing the loss"):
        if world.replica_group is not None:
            dist.all_reduce(shared, group=world.replica_group)
        # Every replica has the sum now; the first of them sends it to all.
        dist.broadcast(shared, src=plan.layout.rank_of(len(plan.stages) - 1))
    return shared
