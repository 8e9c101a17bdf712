"""Many tensors summed or gathered over replicas in one call: one launch, and nothing is copied.

A call of its own for each replica's rows of each parameter makes 10,752 per step for 84 parameters
on 128 replicas. A buffer for many of them would take memory beside the gradients.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _coalescing_manager

# Bytes of tensors in one call: enough to fill a link, and few enough that sums begin while backward
# still runs.
BUCKET = 1 << 26
Item = TypeVar("Item")


class Collective(Protocol):
    """Sums or copies on their way."""

    def wait(self) -> object:
        """Return once they are done; on a GPU, hold its stream until then instead."""


def buckets(items: Sequence[Item], tensor_of: Callable[[Item], torch.Tensor]) -> list[list[Item]]:
    """Neighbours whose tensors have one type, up to BUCKET bytes; a larger tensor by itself."""
    filled: list[list[Item]] = []
    filled_bytes = 0
    for item in items:
        tensor = tensor_of(item)
        size = tensor.numel() * tensor.element_size()
        fits = filled and tensor_of(filled[-1][0]).dtype == tensor.dtype
        if fits and filled_bytes + size <= BUCKET:
            filled[-1].append(item)
            filled_bytes += size
        else:
            filled.append([item])
            filled_bytes = size
    return filled


def sum_whole(tensors: Sequence[torch.Tensor], group: dist.ProcessGroup) -> Collective:
    """Begin to sum tensors of one type over a group, in place."""
    return _in_one_call(tensors, group, lambda tensor: dist.all_reduce(tensor, group=group))


def sum_parts(tensors: Sequence[torch.Tensor], group: dist.ProcessGroup) -> Collective:
    """Begin to sum tensors that divide evenly among ranks, each part on its rank only."""

    def reduce_scatter(tensor: torch.Tensor) -> None:
        flat = _flat(tensor)
        dist.reduce_scatter_single(_part_of_this_rank(flat, group), flat, group=group)

    return _in_one_call(tensors, group, reduce_scatter)


def gather_parts(tensors: Sequence[torch.Tensor], group: dist.ProcessGroup) -> Collective:
    """Begin to bring each rank's part of tensors that divide evenly among ranks to all others."""

    def all_gather(tensor: torch.Tensor) -> None:
        flat = _flat(tensor)
        dist.all_gather_single(flat, _part_of_this_rank(flat, group), group=group)

    return _in_one_call(tensors, group, all_gather)


def _in_one_call(
    tensors: Sequence[torch.Tensor],
    group: dist.ProcessGroup,
    collective: Callable[[torch.Tensor], object],
) -> Collective:
    """Begin a collective on each tensor, all of them as one call of the backend."""
    with _coalescing_manager(group=group, async_ops=True) as manager:
        for tensor in tensors:
            collective(tensor)
    begun: Collective = manager
    return begun


def _part_of_this_rank(flat: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    return flat.chunk(group.size())[group.rank()]


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor, complex numbers as pairs."""
    flat = tensor.detach().view(-1)
    return torch.view_as_real(flat).view(-1) if flat.is_complex() else flat
