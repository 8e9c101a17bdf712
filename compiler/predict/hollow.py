"""Hollow tensors: plain CPU tensors with storages of their own, and no memory behind them.

A dry run allocates as much as a step does. Fake tensors say how much, and each takes as long to
make as ten real ones. These are real but for their contents: all storages begin at one address,
where nothing is read or written.
"""

import ctypes
import mmap
import sys
from collections.abc import Sequence
from typing import Any

import torch

CPU = torch.device("cpu")
# Pages that are not touched take nothing, and are not counted as promised.
_NOT_RESERVED = {"linux": 0x4000, "darwin": 0x40}


class Nowhere:
    """Addresses that are mapped, so that a mistake reads zeros instead of ending the process."""

    def __init__(self) -> None:
        self.mapped: list[mmap.mmap] = []
        self.address = self.size = 0

    def storage(self, nbytes: int) -> torch.UntypedStorage:
        """A storage of that many bytes. Raises OSError where so many cannot be mapped."""
        if nbytes > self.size or not self.size:
            self._map(1 << max(30, nbytes.bit_length()))
        made: Any = torch._C._construct_storage_from_data_pointer(self.address, CPU, nbytes)
        return made  # type: ignore[no-any-return]

    def _map(self, size: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NOT_RESERVED.get(sys.platform, 0)
        pages = mmap.mmap(-1, size, flags=flags)
        # Never unmapped: tensors that lie there may outlive this.
        self.mapped.append(pages)
        self.address, self.size = ctypes.addressof(ctypes.c_char.from_buffer(pages)), size


NOWHERE = Nowhere()


def tensor_in(
    storage: torch.UntypedStorage,
    dtype: torch.dtype,
    offset: int,
    sizes: Sequence[int],
    strides: Sequence[int],
) -> torch.Tensor:
    """A tensor of these elements of a storage."""
    made = torch.empty(0, dtype=dtype, device=storage.device)
    return made.set_(storage, offset, sizes, strides)
