"""How fast this machine is now, beside whatever else it does: one piece of work, timed.

Measurements are kept with the pace at which they were made. Where other work shares the machine
now, or did then, they say nothing of a run.
"""

import time
from collections.abc import Iterable

import torch

from pipecut.compiler.inputs.machine import kind_here
from pipecut.compiler.profile.timing import now
from pipecut.device.local import is_available
from pipecut.device.types import DEVICE_TYPES, type_of

# Rows of the matrices, numbers that are added, and seconds to go on for.
CORE_MATRIX, GPU_MATRIX, LONG, SECONDS = 256, 4096, 1_000_000, 0.15
# Paces that differ by less are one: clocks go up and down by as much.
ALIKE = 1.3


def pace_of(device: torch.device) -> float:
    """Mean seconds of a product and a sum, on one thread of a CPU.

    The mean, not the median: what waits for a core waits in some of them only.
    """
    size = CORE_MATRIX if type_of(device).of_host else GPU_MATRIX
    a, long = torch.randn(size, size, device=device), torch.ones(LONG, device=device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # The first warms up.
        _ = a @ a, long + long
        runs, begin = 0, now(device)
        while time.perf_counter() - begin < SECONDS:
            _ = a @ a, long + long
            now(device)
            runs += 1
        return (time.perf_counter() - begin) / runs
    finally:
        torch.set_num_threads(threads)


def are_alike(pace: float, other: float) -> bool:
    """Whether what was measured at one pace holds at the other."""
    return max(pace, other) <= ALIKE * min(pace, other)


def paces_here(kinds: Iterable[str]) -> dict[str, float]:
    """The pace now of each of those kinds of device that this machine has."""
    here = {kind_here(kind): name for name, kind in DEVICE_TYPES.items() if is_available(kind)}
    return {kind: pace_of(torch.device(here[kind])) for kind in kinds if kind in here}
