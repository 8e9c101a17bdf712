"""This process's place among the ranks, and its device."""

import atexit
import gc
import os
import socket
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

from pipecut.device.local import describe, device_count, is_available, use_device
from pipecut.device.memory import keep_memory
from pipecut.device.types import DeviceType, type_of
from pipecut.device.work import begin_autograd
from pipecut.errors import PeerLostError, RunError
from pipecut.plan.channels import Channel
from pipecut.plan.layout import RankLayout
from pipecut.plan.schema import Plan
from pipecut.runtime.health.last_words import LastWords, end_now, finished_within, say
from pipecut.runtime.health.status import State, Status
from pipecut.runtime.health.timeouts import start_timeout, transfer_timeout
from pipecut.runtime.ranks.agree.meeting import Meeting, meet
from pipecut.runtime.ranks.devices import (
    device_type_of,
    local_index,
    refuse_lost,
    refuse_other_device,
    refuse_shared,
    split_nodes,
)
from pipecut.runtime.ranks.environment import number_in_environment
from pipecut.runtime.ranks.heartbeat import Heartbeat, begin_heartbeat
from pipecut.runtime.ranks.rendezvous import (
    find_ranks,
    join_ranks,
    roll,
    second_store,
)


@dataclass
class World:
    """Rank, device, and the process groups that `open_channels` makes.

    `channels` has a group per rank that sends and rank that receives, `tied` one per set of ranks
    that share parameters, `replica_group` is that of the same stages in other replicas.
    """

    rank: int
    layout: RankLayout
    device: torch.device
    status: Status
    channels: dict[Channel, dist.ProcessGroup] = field(default_factory=dict)
    tied: dict[tuple[int, ...], dist.ProcessGroup] = field(default_factory=dict)
    replica_group: dist.ProcessGroup | None = None
    meeting: Meeting = field(default_factory=lambda: Meeting(0, 1))
    heartbeat: Heartbeat | None = None

    @property
    def size(self) -> int:
        """Ranks of the plan."""
        return self.layout.size

    @property
    def pipeline_rank(self) -> int:
        """This rank's place in the pipeline of its replica."""
        return self.layout.place(self.rank).pipeline_rank

    @property
    def replica(self) -> int:
        """The replica that this rank is part of."""
        return self.layout.place(self.rank).replica

    @property
    def replicas(self) -> int:
        """Replicas of the pipeline."""
        return self.layout.replicas

    def rank_of(self, stage: int) -> int:
        """The rank that runs a stage of this rank's replica."""
        return self.layout.rank_of(stage, self.replica)


def join_world(plan: Plan, device: str | None, meeting: Meeting | None = None) -> World:
    """Join the other ranks. Raises RunError when they are not as many as the plan has."""
    size, limit = plan.ranks, transfer_timeout()
    rank, started = number_in_environment("RANK", 0), number_in_environment("WORLD_SIZE", 1)
    if started != size:
        count = f"{started} {'was' if started == 1 else 'were'}"
        raise RunError(
            f"rank {rank}: the plan has {size} ranks but {count} started; "
            f"start it with: torchrun --nproc-per-node {size} ... or pipecut run"
        )
    status = Status(rank)
    if size > 1:
        # Other ranks wait for this one, even in a loop of the user's own.
        LastWords(rank, status).listen()
    kind = device_type_of(plan, device)
    torch_device = _device(plan, rank, kind, check=device is None)
    if size > 1 and not dist.is_initialized():
        store = find_ranks(rank, size, timedelta(seconds=start_timeout()))
        _refuse_shared_gpus(store, rank, size, torch_device)
        _warn_of_hosts(plan, rank)
        join_ranks(kind.backend, store, rank, size, limit)
    heartbeat = begin_heartbeat(second_store(), rank, roll(), status)
    world = World(rank, plan.layout, torch_device, status, meeting=meeting or meet())
    world.heartbeat = heartbeat
    atexit.register(leave_world, world)
    return world


def _device(plan: Plan, rank: int, kind: DeviceType, check: bool) -> torch.device:
    """This rank's device; with `check` it must be what the plan has there. Raises RunError."""
    if kind.of_host:
        return _share_of_host(kind)
    if not is_available(kind):
        stage = plan.stages_on(rank)[0]
        asked = (
            f"the plan places it on a {stage.device}"
            if check
            else f"--device {kind.name} asks for one"
        )
        raise RunError(
            f"rank {rank}: {asked}, but this machine has no GPU; "
            "compile with --cluster auto, or try the plan on CPU ranks with --device cpu"
        )
    if check:
        refuse_lost(plan, os.environ)
    index = local_index(kind, os.environ, device_count(kind))
    if check:
        refuse_other_device(plan, rank, describe(kind, index))
    device = use_device(kind, index)
    begin_autograd(device)
    return device


def _share_of_host(kind: DeviceType) -> torch.device:
    """The host's cores, with as many threads as fall to each of the ranks on this machine."""
    device = use_device(kind, 0)
    keep_memory(device)
    ranks_here = number_in_environment("LOCAL_WORLD_SIZE", 1)
    if "OMP_NUM_THREADS" not in os.environ or ranks_here > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks_here))
    return device


def _refuse_shared_gpus(store: Store, rank: int, size: int, device: torch.device) -> None:
    """Raises RunError where two ranks have one GPU, by its identity: each may see it as GPU 0.

    As NCCL does, which takes NCCL_HOSTID for the host: with it, ranks may share a GPU.
    """
    kind = type_of(device)
    if kind.of_host or size == 1:
        return
    identity = describe(kind, device.index).identity or str(os.getpid())
    host = os.environ.get("NCCL_HOSTID") or socket.gethostname()
    store.set(f"device/{rank}", f"{identity} of {host}")
    refuse_shared(kind, [store.get(f"device/{r}").decode() for r in range(size)])


def _warn_of_hosts(plan: Plan, rank: int) -> None:
    """Warn where hosts are not the plan's nodes, or where a lost host could not join again."""
    everyone = roll()
    if everyone is None or rank:
        return
    hosts = everyone.hosts
    split = split_nodes(plan, hosts)
    if split is not None:
        say(f"pipecut: warning: {split}")
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    if (
        len(set(hosts)) > 1
        and restarts
        and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    ):
        say(
            "pipecut: warning: a host that is lost cannot join this run again; start torchrun with "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on every host"
        )


def leave_world(world: World) -> None:
    """Close the process groups; a second call does nothing.

    A gloo thread that frees a tensor while the interpreter exits aborts the process. So every
    reference to a group is dropped now: a group that is gone has joined its threads.
    """
    world.channels.clear()
    world.tied.clear()
    world.meeting.leave(world.status.step - 1)
    world.status.note(State.ENDED)
    if world.heartbeat is not None:
        world.heartbeat.end()
    world.replica_group = None
    if dist.is_initialized():
        limit = transfer_timeout().total_seconds()
        if not finished_within(limit, dist.destroy_process_group):
            say(f"pipecut: rank {world.rank}: its process groups did not close in {limit:g} s")
            end_now(PeerLostError.exit_code)
    gc.collect()
