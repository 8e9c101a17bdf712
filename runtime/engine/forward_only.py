"""The actions of a rank that runs forward alone, for any number of microbatches, and what comes of it on every rank.

All forwards of all ranks are in one order, by the sum of stage and microbatch, and a message stands
right after the forward that makes it, for the rank that sends and for the one that receives. All that
anything needs comes before it, so no ranks wait in a circle, and both ends of a channel have its
messages in one order.
"""

from math import ceil

import torch
import torch.distributed as dist

from pipecut.plan.schema import Action, Plan
from pipecut.runtime.launch.rank_errors import told
from pipecut.runtime.ranks.world import World


def forward_only(plan: Plan, position: int, microbatches: int) -> list[Action]:
    """Of the rank at a place in the pipeline.

    A receive stands where its message is sent, about one forward ahead of what needs it.
    """
    pipeline_rank_of, stages = plan.pipeline_rank_of, [stage.index for stage in plan.stages]
    crossing = {b.left for b in plan.boundaries if b.tensors and plan.over_link(b.left)}
    placed: list[tuple[tuple[int, int, int], Action]] = []
    for s in stages:
        for m in range(microbatches):
            if pipeline_rank_of[s] == position:
                placed.append(((s + m, s, 0), Action("F", s, m)))
                placed += [((s + m, s, 1), Action("SEND_F", s, m))] if s in crossing else []
            if s in crossing and pipeline_rank_of[s + 1] == position:
                placed.append(((s + m, s, 1), Action("RECV_F", s + 1, m)))
    return [action for _, action in sorted(placed, key=lambda entry: entry[0])]


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
    with told(f"rank {world.rank}, gathering outputs"):
        for stage in plan.stages:
            for tensor in stage.outputs:
                parts = []
                for replica, count in enumerate(counts):
                    if not count:
                        continue
                    source = stage.rank * plan.replicas + replica
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
