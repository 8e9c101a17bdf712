"""The actions of a rank that runs forward alone, for any number of microbatches, and what comes of it on every rank.

A rank takes its stages' microbatches in the order in which the first could have passed through all stages before: by the sum of
stage and microbatch. All that anything needs comes before it in that order on every rank, so none waits in a circle.
"""

from math import ceil

import torch
import torch.distributed as dist

from pipecut.runtime.peers import told
from pipecut.runtime.plan import Action, Plan
from pipecut.runtime.world import World


def forward_only(plan: Plan, position: int, microbatches: int) -> list[Action]:
    """Of the rank at a place in the pipeline; receives are posted one forward ahead."""
    own = [stage.index for stage in plan.stages if stage.rank == position]
    crossing = {b.left for b in plan.boundaries if b.tensors and plan.over_link(b.left)}
    order = sorted(((s, m) for s in own for m in range(microbatches)), key=lambda one: (sum(one), one[0]))
    receives = [[Action("RECV_F", s, m)] if s - 1 in crossing else [] for s, m in order]
    actions = [*receives[0]] if receives else []
    for (s, m), ahead in zip(order, [*receives[1:], []], strict=True):
        actions += [*ahead, Action("F", s, m)]
        actions += [Action("SEND_F", s, m)] if s in crossing else []
    return actions


def gather_outputs(plan: Plan, world: World, own: dict[str, torch.Tensor], samples: int) -> dict[str, torch.Tensor]:
    """Each output of so many samples, on every rank, from the ranks that have those of their replica's samples."""
    if world.size == 1:
        return own
    size = plan.batch.microbatch
    share = ceil(ceil(samples / size) / plan.replicas) * size
    counts = [max(0, min(samples, (replica + 1) * share) - replica * share) for replica in range(plan.replicas)]
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
                        part = torch.empty(tensor.sizes(count), dtype=getattr(torch, tensor.dtype), device=world.device)
                    dist.broadcast(part, src=source)
                    parts.append(part)
                found[tensor.name] = torch.cat(parts)
    return found
