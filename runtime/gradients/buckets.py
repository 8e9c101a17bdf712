"""Many tensors summed or gathered over replicas in one call: one launch on a GPU, and nothing is copied.

A call of its own for each replica's rows of each parameter makes 10,752 a step for 84 parameters on
128 replicas. A buffer for many of them would take memory beside the gradients.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import _coalescing_manager

# Bytes of tensors in one call: enough to fill a link, and few enough that sums begin while backward
# still runs.
BUCKET = 1 << 26


class Sum(Protocol):
    """Sums or copies on their way."""

    def wait(self) -> object:
        """Return once they are done; on a GPU, hold its stream until then instead."""


def buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Neighbours of one type together, up to BUCKET bytes; a parameter that is larger alone."""
    found: list[list[nn.Parameter]] = []
    filled = 0
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        if found and found[-1][0].dtype == parameter.dtype and filled + size <= BUCKET:
            found[-1].append(parameter)
            filled += size
        else:
            found.append([parameter])
            filled = size
    return found


def sum_whole(tensors: Sequence[torch.Tensor], group: dist.ProcessGroup) -> Sum:
    """Begin to sum tensors of one type over a group, in place."""
    with _coalescing_manager(group=group, async_ops=True) as manager:
        for tensor in tensors:
            dist.all_reduce(tensor, group=group)
    works: Sum = manager
    return works


def sum_parts(tensors: Sequence[torch.Tensor], group: dist.ProcessGroup) -> Sum:
    """Begin to sum tensors, which divide evenly among a group's ranks, each part on its rank alone."""
    with _coalescing_manager(group=group, async_ops=True) as manager:
        for tensor in tensors:
            flat = _flat(tensor)
            dist.reduce_scatter_single(flat.chunk(group.size())[group.rank()], flat, group=group)
    works: Sum = manager
    return works


def gather_parts(tensors: Sequence[torch.Tensor], group: dist.ProcessGroup) -> Sum:
    """Begin to bring each rank's part of tensors, which divide evenly among them, to all others."""
    with _coalescing_manager(group=group, async_ops=True) as manager:
        for tensor in tensors:
            flat = _flat(tensor)
            dist.all_gather_single(flat, flat.chunk(group.size())[group.rank()], group=group)
    works: Sum = manager
    return works


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor."""
    flat = tensor.detach().view(-1)
    return torch.view_as_real(flat).view(-1) if flat.is_complex() else flat
