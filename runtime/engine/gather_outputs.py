"""The outputs of a batch on every rank, from the ranks that made them."""

from math import ceil

import torch
import torch.distributed as dist

from pipecut.plan.schema import Plan, Sizes, Tensor
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.ranks.world import World

Outputs = dict[str, torch.Tensor]


def gather_outputs(plan: Plan, world: World, outputs: Outputs, sizes: Sizes) -> Outputs:
    """Each output of a batch of such sizes, on every rank.

    `outputs` has what this rank's stages returned for the samples of its replica.
    """
    if world.size == 1:
        return outputs
    counts = samples_per_replica(plan, sizes["batch"])
    with naming_errors(f"rank {world.rank}, gathering outputs"):
        return {
            tensor.name: torch.cat(
                [
                    _from_rank(
                        plan.layout.rank_of(stage.index, replica),
                        world,
                        tensor,
                        {**sizes, "batch": count},
                        outputs,
                    )
                    for replica, count in enumerate(counts)
                    if count
                ],
                tensor.samples_at,
            )
            for stage in plan.stages
            for tensor in stage.outputs
        }


def samples_per_replica(plan: Plan, samples: int) -> list[int]:
    """Whole microbatches, as many for each replica as for the others while there are any."""
    size, replicas = plan.batch.microbatch, plan.replicas
    share = ceil(ceil(samples / size) / replicas) * size
    return [
        max(0, min(samples, (replica + 1) * share) - replica * share) for replica in range(replicas)
    ]


def _from_rank(
    source: int, world: World, tensor: Tensor, sizes: Sizes, outputs: Outputs
) -> torch.Tensor:
    """One replica's part of an output, from the rank that made it."""
    if source == world.rank:
        part = outputs[tensor.name].contiguous()
    else:
        shape = tensor.sizes(sizes)
        # Of a model that fixes its batch the plan has the microbatch's own size.
        shape[tensor.samples_at] = sizes["batch"]
        part = torch.empty(shape, dtype=getattr(torch, tensor.dtype), device=world.device)
    # As bytes, since backends do not know every type.
    dist.broadcast(part.flatten().view(torch.uint8), src=source)
    return part
