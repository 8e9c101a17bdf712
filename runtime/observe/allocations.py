"""Count what operators allocate, on a device whose allocator keeps no count.

Every operator, forward and backward, passes a dispatch mode: a storage that was not seen before is
added, and taken off when its last tensor is gone. torch's own MemTracker refuses a module that runs
several microbatches per step.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Bytes alive and at the peak; counts `held` from the start, such as the parameters."""

    def __init__(self, held: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self.seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in held:
            self._count(tensor)

    def _count(self, tensor: torch.Tensor) -> None:
        if tensor.device.type != "meta":
            self.count_storage(tensor.untyped_storage())

    def count_storage(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is gone, unless it is counted already."""
        key = storage._cdata
        if key in self.seen:
            return
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        # weakref.finalize takes longer than an operator of a dry run.
        self.seen[key] = weakref.ref(storage, lambda _: self._gone(key, size))

    def _gone(self, key: int, size: int) -> None:
        self.seen.pop(key, None)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then count what it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf)
        return result
