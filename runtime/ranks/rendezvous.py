"""How the ranks of a run find each other: by a file on one machine, by torchrun's store on several.

What several hosts expose: torchrun's own store listens on all interfaces of the first host, and
whoever reaches it can end or take over the run (see docs/several-machines.md). The store that rank
0 opens here, where torchrun does not share its own, listens only on MASTER_ADDR. Nothing in a
store is unpickled here.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, HashStore, PrefixStore, Store, TCPStore

from pipecut.errors import RunError, UserFileError
from pipecut.runtime.health.timeouts import transfer_timeout
from pipecut.runtime.ranks.devices import ranks_by_host
from pipecut.runtime.ranks.environment import HOSTS, STORE, number_in_environment
from pipecut.runtime.ranks.roll_call import RankProcess, Roll, call_roll

# Seconds in which a store that is there answers, and takes connections.
SOON, CONNECT = 10.0, 60.0


@dataclass
class Rendezvous:
    """The store of this run's ranks, and what each said of itself, once they found each other.

    `joined` counts the process groups of all ranks: each uses keys of its own. `ordered`: whether
    PIPECUT_HOSTS was applied.
    """

    store: Store | None = None
    roll: Roll | None = None
    joined: int = 0
    ordered: bool = False


_rendezvous = Rendezvous()


def find_ranks(rank: int, size: int, limit: timedelta) -> Store:
    """The store that all ranks reach, found once per process: a file, or that of torchrun.

    Raises RunError when it cannot be reached or a rank does not come within the limit.
    """
    try:
        if dist.is_initialized():
            return dist.distributed_c10d._get_default_store()
        if _rendezvous.store is not None:
            return _rendezvous.store
        path = os.environ.get(STORE)
        if size == 1:
            _rendezvous.store = HashStore()
        elif path is not None:
            _rendezvous.store = FileStore(path, size)
        else:
            store = _network_store(rank, size, limit)
            process = RankProcess(socket.gethostname(), os.getpid())
            _rendezvous.roll = call_roll(store, rank, size, process, limit.total_seconds())
            _rendezvous.store = PrefixStore(f"attempt/{_rendezvous.roll.attempt}", store)
    except (dist.DistError, RuntimeError, ValueError, OSError) as error:
        raise RunError(
            f"rank {rank}: the {size} ranks cannot find each other: {_first_line(error)}"
        ) from None
    return _rendezvous.store


def roll() -> Roll | None:
    """What each rank said of itself; None on one machine, or before the ranks found each other."""
    return _rendezvous.roll


def order_ranks(limit: timedelta) -> None:
    """Number this run's ranks by PIPECUT_HOSTS, where it is set, and set this process's RANK.

    PIPECUT_HOSTS is a file with a host per line, or hosts separated by commas. Ranks count hosts in
    this order, not in that of torchrun's rendezvous. Raises RunError where a host is missing or not
    listed.
    """
    text = os.environ.get(HOSTS)
    rank, size = number_in_environment("RANK", 0), number_in_environment("WORLD_SIZE", 1)
    if text is None or size == 1 or os.environ.get(STORE) is not None or _rendezvous.ordered:
        return
    wanted = Path(text).read_text().split() if Path(text).is_file() else text.split(",")
    find_ranks(rank, size, limit)
    if _rendezvous.roll is None:
        raise RunError(
            f"{HOSTS} is set, but the process group was made before pipecut.load; load first"
        )
    hosts = [_listed(host, wanted) for host in _rendezvous.roll.hosts]
    ranks = ranks_by_host(hosts, wanted)
    os.environ["RANK"], _rendezvous.ordered = str(ranks[rank]), True
    process_of = dict(zip(ranks, _rendezvous.roll.processes, strict=True))
    processes = tuple(process_of[r] for r in range(size))
    _rendezvous.roll = Roll(_rendezvous.roll.attempt, processes)


def _listed(host: str, wanted: Sequence[str]) -> str:
    """A host as the user wrote it, with or without its domain."""
    return next((name for name in wanted if name.split(".")[0] == host.split(".")[0]), host)


def second_store() -> Store | None:
    """Another connection to the store of this attempt, for a thread: the first one may be waiting.

    None where all ranks run on this machine.
    """
    if _rendezvous.roll is None:
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    limit = timedelta(seconds=SOON)
    store = TCPStore(address, port, is_master=False, timeout=limit, wait_for_workers=False)
    return PrefixStore(f"pipecut/attempt/{_rendezvous.roll.attempt}/alive", store)


def _network_store(rank: int, size: int, limit: timedelta) -> Store:
    address, port = os.environ.get("MASTER_ADDR"), number_in_environment("MASTER_PORT", 0)
    if not address or not port:
        raise UserFileError(
            f"WORLD_SIZE={size}, but MASTER_ADDR and MASTER_PORT are not set: start it with "
            "torchrun, or on one machine with pipecut run"
        )
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    host = rank == 0 and not shared
    listening = _listen(address, port) if host else None
    store = TCPStore(
        address,
        port,
        size,
        is_master=host,
        # torchrun's own store is there already, or is gone.
        timeout=min(limit, timedelta(seconds=CONNECT)) if shared else limit,
        wait_for_workers=False,
        master_listen_fd=listening,
    )
    store.set_timeout(transfer_timeout())
    return PrefixStore("pipecut", store)


def _listen(address: str, port: int) -> int | None:
    """A socket on the interface with this address; None where this host has no such interface."""
    with suppress(OSError):
        addresses = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        family, _, _, _, socket_address = addresses[0]
        listening = socket.create_server(socket_address[:2], family=family, backlog=4096)
        # The store owns the socket from here on.
        return listening.detach()
    return None


def join_ranks(backend: str, store: Store, rank: int, size: int, limit: timedelta) -> None:
    """Make the process group of all ranks. Raises RunError where some do not come."""
    _rendezvous.joined += 1
    keys = PrefixStore(f"group/{_rendezvous.joined}", store)
    try:
        dist.init_process_group(backend, store=keys, rank=rank, world_size=size, timeout=limit)
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise RunError(
            f"rank {rank}: the {size} ranks did not all come within {limit}: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
