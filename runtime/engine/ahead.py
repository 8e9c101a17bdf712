"""How far the host may be ahead of a GPU: on a CPU it computes itself, and is not ahead at all.

Kernels are only queued, and to wait for a message holds only the GPU's stream. A host that ran on
through a whole step would post receives and free tensors that the device has not come to, and of a
rank that stands still would report where its host is, not its device.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch

from pipecut.device.types import type_of
from pipecut.device.work import sleeping_event

# Computes that are queued and not done. Two: while the device does one, the next is ready.
AHEAD = 2


class Mark(Protocol):
    """A moment on the device's stream, as `pipecut.device.work.Event`."""

    def record(self) -> object:
        """Put it behind what is queued now."""

    def synchronize(self) -> object:
        """Return once the device has come to it."""


class Ahead:
    """Marks the end of each compute, and waits before one until the one before the last is done."""

    def __init__(self, make: Callable[[], Mark] | None) -> None:
        self.make = make
        self.marks: deque[Mark] = deque()

    @classmethod
    def of(cls, device: torch.device) -> "Ahead":
        """Of a device; on a CPU nothing is marked."""
        return cls((lambda: sleeping_event(device)) if type_of(device).queued else None)

    def before(self) -> None:
        """Wait until at most one compute is queued and not done."""
        while len(self.marks) >= AHEAD:
            self.marks.popleft().synchronize()

    def after(self) -> None:
        """Mark the end of a compute that was queued."""
        if self.make is not None:
            mark = self.make()
            mark.record()
            self.marks.append(mark)
