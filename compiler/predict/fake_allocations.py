"""Count what operators allocate on fake tensors, with little beside the operators themselves.

A dry run asks thousands of times, so what a call costs here is what the dry run costs.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from pipecut.compiler.predict.known_calls import KnownCalls
from pipecut.runtime.observe.allocations import Allocations

_DEVICE_OF = torch.ops.prim.device.default


class FakeAllocations(Allocations):  # type: ignore[no-untyped-call]
    """Allocations of fake tensors, none of which is on meta."""

    def __init__(
        self, mode: FakeTensorMode, known: KnownCalls, held: Iterable[torch.Tensor]
    ) -> None:
        super().__init__(held)
        self.mode, self.known = mode, known

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: torch's guard against it takes longer than most calls."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then count what it made."""
        if func is _DEVICE_OF:
            # Most calls are the question of a kernel where a tensor lies.
            return args[0].fake_device
        # Calls of functions were seen by the modes around this one before they came here.
        with torch._C.DisableTorchFunction():
            result = self.known.run(self.mode, func, args, kwargs or {})
        for leaf in (result,) if isinstance(result, torch.Tensor) else tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.count_storage(leaf)
        return result
