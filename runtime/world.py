"""This process's place among the ranks, and the process groups of a plan."""

import atexit
import gc
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from pipecut.errors import RunError
from pipecut.runtime.keep_memory import keep_memory
from pipecut.runtime.plan import Plan
from pipecut.runtime.rendezvous import join_ranks
from pipecut.runtime.status import State, Status
from pipecut.runtime.timeouts import transfer_timeout


@dataclass
class World:
    """Rank, device, and a group per boundary and direction, per tied parameter, and of the same stages in other replicas.

    `position` is the rank's place in the pipeline of its own replica.
    """

    rank: int
    size: int
    position: int
    replica: int
    replicas: int
    device: torch.device
    forward: dict[int, dist.ProcessGroup]
    backward: dict[int, dist.ProcessGroup]
    tied: list[dist.ProcessGroup | None]
    peers: dist.ProcessGroup | None
    status: Status

    def rank_at(self, position: int) -> int:
        """The rank at another place in the pipeline of this replica."""
        return position * self.replicas + self.replica


def join_world(plan: Plan, device: str | None) -> World:
    """Join the other ranks. Raises RunError when their number is not the plan's or one does not come."""
    size, limit = plan.ranks, transfer_timeout()
    rank, given = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if given != size:
        raise RunError(
            f"rank {rank}: the plan has {size} ranks but {given} {'was' if given == 1 else 'were'} started; "
            f"start it with: torchrun --nproc-per-node {size} ... or pipecut run"
        )
    position, replica = divmod(rank, plan.replicas)
    status = Status(rank)
    place = _device(plan, rank, position, device)
    if size > 1 and not dist.is_initialized():
        join_ranks("nccl" if place.type == "cuda" else "gloo", rank, size, limit)
    rank_of = plan.rank_of

    def group(positions: list[int], of: int) -> dist.ProcessGroup:
        made: dist.ProcessGroup = dist.new_group([p * plan.replicas + of for p in positions], timeout=limit)
        return made

    forward: dict[int, dist.ProcessGroup] = {}
    backward: dict[int, dist.ProcessGroup] = {}
    tied: list[dist.ProcessGroup | None] = []
    # Every rank makes every group, in the same order; it keeps those of its own replica.
    for other in range(plan.replicas):
        for boundary in plan.boundaries:
            if not plan.over_link(boundary.left):
                continue
            pair = [rank_of[boundary.left], rank_of[boundary.left + 1]]
            # A group each way, so that activations never wait behind gradients.
            both = group(pair, other), group(pair, other)
            if other == replica:
                forward[boundary.left], backward[boundary.left] = both
        users = [sorted({rank_of[s] for s in t.stages}) for t in plan.tied]
        # Stages of one rank share the parameter itself.
        groups = [group(ranks, other) if len(ranks) > 1 else None for ranks in users]
        tied = groups if other == replica else tied
    peers = None
    for first in range(0, size, plan.replicas) if plan.replicas > 1 else ():
        same = dist.new_group(list(range(first, first + plan.replicas)), timeout=limit)
        peers = same if first == position * plan.replicas else peers
    world = World(rank, size, position, replica, plan.replicas, place, forward, backward, tied, peers, status)
    atexit.register(leave_world, world)
    return world


def _device(plan: Plan, rank: int, position: int, wanted: str | None) -> torch.device:
    kind = wanted or next(stage.device_type for stage in plan.stages if stage.rank == position)
    local, beside = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if kind == "cpu":
        keep_memory()
        if "OMP_NUM_THREADS" not in os.environ or beside > 1:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // beside))
        return torch.device("cpu")
    if not torch.cuda.is_available():
        asked = "--device cuda asks for one" if wanted else f"the plan places it on a {plan.stages[position].device}"
        raise RunError(
            f"rank {rank}: {asked}, but this machine has no GPU; "
            "compile with --cluster auto, or try the plan on CPU ranks with --device cpu"
        )
    if local >= torch.cuda.device_count():
        raise RunError(f"rank {rank}: needs GPU {local} of this machine, which has {torch.cuda.device_count()}")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def leave_world(world: World) -> None:
    """Close the process groups; a second time does nothing.

    A gloo thread that lets go of a tensor while the interpreter ends aborts the process, so every reference to a group
    goes now: a group that is gone has joined its threads.
    """
    for groups in (world.forward, world.backward):
        groups.clear()
    world.tied.clear()
    world.status.note(State.ENDED)
    world.peers = None
    if dist.is_initialized():
        dist.destroy_process_group()
    gc.collect()
