"""Make and open the process groups of a plan, in the order of pipecut.plan.channels."""

from collections.abc import Mapping
from datetime import timedelta

import torch
import torch.distributed as dist

from pipecut.device.work import synchronize
from pipecut.plan.channels import Channel, Group, groups_of
from pipecut.plan.schema import Plan
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.health.timeouts import transfer_timeout
from pipecut.runtime.ranks.communicator_options import options_for
from pipecut.runtime.ranks.messages import GroupMessages, Messages
from pipecut.runtime.ranks.world import World


def open_channels(plan: Plan, world: World, messages: Messages | None = None) -> None:
    """Make this rank's groups and use each once. Every rank calls it; a second call does nothing.

    Work that takes ranks unequally long belongs before this call, in which they wait for each
    other. Raises RunError.
    """
    if world.size == 1 or world.channels or world.replica_group is not None:
        return
    order, limit = groups_of(plan), transfer_timeout()
    with naming_errors(f"rank {world.rank}, making the process groups"):
        # Every rank makes every group, in the same order.
        groups = {group: _new_group(group, world, limit) for group in order}
    open_groups(groups, world, messages or GroupMessages())


def _new_group(group: Group, world: World, limit: timedelta) -> dist.ProcessGroup | None:
    """A new process group, without a communicator yet; None for all ranks, whose group exists."""
    if group.kind == "all":
        return None
    options = options_for(group.kind, world.device, limit)
    ranks = list(group.ranks)
    new: dist.ProcessGroup = dist.new_group(ranks, timeout=limit, pg_options=options)
    return new


def open_groups(
    groups: Mapping[Group, dist.ProcessGroup | None], world: World, messages: Messages
) -> None:
    """Use each group of this rank once, in their order, and keep it in `world`. Raises RunError."""
    for group, process_group in groups.items():
        if world.rank not in group.ranks:
            continue
        with naming_errors(f"rank {world.rank}, opening the {group}"):
            _use(group, process_group, world, messages)
        if process_group is None:
            continue
        if group.kind == "channel":
            world.channels[Channel(*group.ranks)] = process_group
        elif group.kind == "tied":
            world.tied[group.ranks] = process_group
        else:
            world.replica_group = process_group
    with naming_errors(f"rank {world.rank}, opening channels"):
        synchronize(world.device)


def _use(
    group: Group, process_group: dist.ProcessGroup | None, world: World, messages: Messages
) -> None:
    """Send an element over a channel, or sum an element over a group."""
    element = torch.ones(1, device=world.device)
    if group.kind != "channel":
        dist.all_reduce(element, group=process_group)
        return
    assert process_group is not None
    source, target = group.ranks
    if world.rank == source:
        messages.isend(element, target, process_group).wait()
    else:
        messages.irecv(element, source, process_group).wait()
