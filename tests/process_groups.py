"""Process groups of threads, over gloo: collectives in one process."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Result = TypeVar("Result")


def join_group(store: Any, rank: int, count: int) -> Any:
    """One rank's side of a group of so many."""
    options = dist.ProcessGroupGloo._Options()
    options._devices = [dist.ProcessGroupGloo.create_device(interface="lo")]
    options._timeout = timedelta(seconds=30)
    group = dist.ProcessGroup(store, rank, count)
    kind = dist.ProcessGroup.BackendType.GLOO
    group._set_default_backend(kind)
    backend = dist.ProcessGroupGloo(store, rank, count, options)
    group._register_backend(torch.device("cpu"), kind, backend)
    return group


def in_group(count: int, work: Callable[[Any], Result]) -> list[Result]:
    """What each rank returns that does this work with its side of a group."""
    store = dist.HashStore()
    with ThreadPoolExecutor(count) as pool:
        groups = list(pool.map(lambda rank: join_group(store, rank, count), range(count)))
        return list(pool.map(work, groups))
