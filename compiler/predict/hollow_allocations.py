"""Count what operators allocate on hollow tensors, with little beside the operators themselves.

A dry run asks thousands of times, so what a call costs here is what the dry run costs.
"""

from typing import Any

import torch

from pipecut.compiler.predict.known_calls import KnownCalls
from pipecut.runtime.observe.allocations import Allocations


class HollowAllocations(Allocations):  # type: ignore[no-untyped-call]
    """While it is entered, every tensor that is made is hollow, or on meta."""

    def __init__(self, known: KnownCalls) -> None:
        super().__init__(())
        self.known = known

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: torch's guard against it takes longer than most calls."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make what the operator makes, and count its storages."""
        # Calls of functions were seen by the modes around this one before they came here.
        with torch._C.DisableTorchFunction():
            return self.known.run(func, args, kwargs or {}, self.count_storage)
