"""Rates of this rank's device: matrix products, memory, and the overhead of an operator."""

import statistics
import time
from collections.abc import Callable

import torch

from pipecut.calibrate.measured import DeviceSpeed
from pipecut.device.memory import flush_cache, total_bytes
from pipecut.device.types import type_of
from pipecut.device.work import timing_event

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Products are of a layer's size. A GPU has room for many of a core's size at once.
CORE_MATRIX, GPU_MATRIX = 512, 4096
# Calls of a round on a core and, of so many launches each, on a GPU; the first two warm up.
CORE_CALLS, GPU_CALLS, WARM_UP = 15, 5, 2
# Rounds over all that is measured: a machine that others use is slow for a while, and then is not.
ROUNDS = 9
# Launches that a GPU is given at once, so that the host's own time is not in what is measured.
QUEUED = 20
# Numbers of the tensors that are added, and adds of small ones in a call.
LONG, ADDS = 8_000_000, 200


def device_speed(device: torch.device, local_ranks: int) -> DeviceSpeed:
    """The device's rates, and its share of the memory of a host with so many ranks."""
    calls = {name: product(dtype, device) for name, dtype in PRECISIONS.items()}
    long = torch.ones(LONG, device=device)
    out = torch.empty_like(long)
    small = torch.ones(8, device=device)
    calls["add"] = lambda: torch.add(long, long, out=out)
    calls["overhead"] = lambda: [small + small for _ in range(ADDS)]
    rounds = [{name: _seconds(call, device) for name, call in calls.items()} for _ in range(ROUNDS)]
    median = {name: statistics.median(times[name] for times in rounds) for name in calls}
    # A product of n x n matrices is n^3 multiplications and as many additions. An add reads two
    # tensors and writes one.
    return DeviceSpeed(
        flops={name: 2 * _matrix(device) ** 3 / median[name] for name in PRECISIONS},
        bandwidth=3 * long.element_size() * LONG / median["add"],
        overhead=median["overhead"] / ADDS,
        memory=total_bytes(device, local_ranks),
    )


def product(dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """A call that multiplies two matrices of a layer's size."""
    size = _matrix(device)
    # Not ones: a GPU that multiplies zeros and ones draws less power and clocks higher.
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b


def _matrix(device: torch.device) -> int:
    return CORE_MATRIX if type_of(device).of_host else GPU_MATRIX


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Median seconds of one call."""
    if type_of(device).queued:
        times = [_queued_seconds(call, device) for _ in range(GPU_CALLS)]
    else:
        times = [_clocked_seconds(call) for _ in range(CORE_CALLS)]
    return statistics.median(times[WARM_UP:])


def _clocked_seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _queued_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Between events around queued calls, with the device's cache flushed before them."""
    flush_cache(device)
    start, end = (timing_event(device) for _ in range(2))
    start.record()
    for _ in range(QUEUED):
        call()
    end.record()
    end.synchronize()
    # Events count milliseconds.
    return float(start.elapsed_time(end)) / 1e3 / QUEUED
