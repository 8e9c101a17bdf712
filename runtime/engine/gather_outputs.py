"""The outputs of a batch on every rank, from the ranks that made them."""

from math import ceil

import torch
import torch.distributed as dist

from pipecut.plan.schema import Plan
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.ranks.world import World


def gather_outputs(
    plan: Plan, world: World, own: dict[str, torch.Tensor], samples: int
) -> dict[str, torch.Tensor]:
    """Each output of so many samples, on every rank, from the ranks that have those of their replica's samples."""
    if world.size == 1:
        return own
    size = plan.batch.microbatch
    share = ceil(ceil(samples / size) / plan.replicas) * size
    counts = [
        max(0, min(samples, (replica + 1) * share) - replica * share)
        for replica in range(plan.replicas)
    ]
    found = {}
    with naming_errors(f"rank {world.rank}, gathering outputs"):
        for stage in plan.stages:
            for tensor in stage.outputs:
                parts = []
                for replica, count in enumerate(counts):
                    if not count:
                        continue
                    source = plan.layout.rank_of(stage.index, replica)
                    if source == world.rank:
                        part = own[tensor.name].contiguous()
                    else:
                        sizes = tensor.sizes(count)
                        # Of a model that fixes its batch the plan has the microbatch's own size.
                        sizes[tensor.samples_at] = count
                        part = torch.empty(
                            sizes, dtype=getattr(torch, tensor.dtype), device=world.device
                        )
                    # As bytes, since backends do not know every type.
                    dist.broadcast(part.flatten().view(torch.uint8), src=source)
                    parts.append(part)
                found[tensor.name] = torch.cat(parts, tensor.samples_at)
    return found
