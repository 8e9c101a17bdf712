"""What one CPU core of this machine does, measured in about a second."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

# Rows and columns of the matrices, numbers of the long tensor, and adds of small ones at once.
MATRIX, LONG, ADDS = 512, 4_000_000, 200


@dataclass(frozen=True)
class CoreSpeed:
    """One thread: FLOP/s of a float32 product, bytes/s of an add, seconds per operator."""

    flops: float
    bandwidth: float
    overhead: float


@cache
def probe_cpu() -> CoreSpeed:
    """The fastest of a few runs of each, since other processes only slow it down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a, b = torch.ones(MATRIX, MATRIX), torch.ones(MATRIX, MATRIX)
        product = _best_seconds(lambda: a @ b, 12)
        long = torch.ones(LONG)
        out = torch.empty_like(long)
        add = _best_seconds(lambda: torch.add(long, long, out=out), 8)
        small = torch.ones(8)
        adds = _best_seconds(lambda: [small + small for _ in range(ADDS)], 5)
    finally:
        torch.set_num_threads(threads)
    # An add reads two tensors and writes one.
    moved = 3 * long.element_size() * LONG
    return CoreSpeed(2 * MATRIX**3 / product, moved / add, adds / ADDS)


def _best_seconds(work: Callable[[], object], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
