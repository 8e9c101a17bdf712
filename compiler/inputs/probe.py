"""What one CPU core of this machine does, measured in about a second."""

import time
from collections.abc import Callable
from functools import cache

import torch


def _best_seconds(work: Callable[[], object], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


@cache
def probe_cpu() -> tuple[float, float, float]:
    """One thread's FLOP/s of a float32 matrix product, bytes/s of an add, and seconds of overhead per operator."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a, b = torch.ones(512, 512), torch.ones(512, 512)
        matmul = _best_seconds(lambda: a @ b, 12)
        long = torch.ones(4_000_000)
        out = torch.empty_like(long)
        add = _best_seconds(lambda: torch.add(long, long, out=out), 8)
        small = torch.ones(8)
        overhead = _best_seconds(lambda: [small + small for _ in range(200)], 5) / 200
    finally:
        torch.set_num_threads(threads)
    return 2 * 512**3 / matmul, 3 * 4 * 4_000_000 / add, overhead
