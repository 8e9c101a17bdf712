"""The bytes at the peak of a step: as the device counts them, or as operators allocate them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from pipecut.device.memory import peak_so_far, watch_peak
from pipecut.device.types import type_of
from pipecut.runtime.engine.recorder import Measured
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.observe.allocations import Allocations
from pipecut.runtime.pipeline import Pipeline
from pipecut.runtime.ranks.world import World


def most_bytes(world: World) -> int:
    """The peak so far of the rank that took most: of its device, or of its process on a CPU.

    All ranks must call it together.
    """
    peak = torch.tensor(peak_so_far(world.device), device=world.device)
    if world.size > 1:
        with naming_errors(f"rank {world.rank}, comparing memory"):
            dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    return int(peak)


@contextmanager
def watching_memory(
    pipe: Pipeline, optimizer: torch.optim.Optimizer, measured: Measured
) -> Iterator[None]:
    """Note the peak of what runs meanwhile in `measured`."""
    if type_of(pipe.world.device).own_memory:
        with watch_peak(pipe.world.device) as peak_bytes:
            yield
            measured.peak_bytes = peak_bytes()
        return
    stages = [p for module in pipe.model.modules.values() for p in module.parameters()]
    buffers = [buffer for _, buffer in pipe.named_buffers()]
    states = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    with Allocations([*stages, *pipe.parameters(), *buffers, *states]) as counted:
        yield
    measured.peak_bytes = counted.peak
