"""How the ranks of a run find each other."""

import os
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from pipecut.errors import RunError
from pipecut.runtime.local_ranks import STORE


def join_ranks(backend: str, rank: int, size: int, limit: timedelta) -> None:
    """Make the process group of all ranks: over a file where they are all of this machine, else as torchrun says.

    Raises RunError where they do not all come.
    """
    try:
        path = os.environ.get(STORE)
        if path is None:
            dist.init_process_group(backend, timeout=limit)
            return
        store = FileStore(path, size)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    except (dist.DistError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"rank {rank}: the {size} ranks did not all come within {limit}: {reason}") from None
