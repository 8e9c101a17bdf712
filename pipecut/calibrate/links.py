"""Seconds of messages between neighbouring ranks."""

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from pipecut.calibrate.speed import product
from pipecut.device.types import type_of
from pipecut.device.work import synchronize

# Bytes of the messages, how often each is sent, and how many of these warm up.
SIZES = tuple(1 << exponent for exponent in range(10, 26, 2))
REPEATS, WARM_UP = 15, 2


def message_seconds(
    device: torch.device, rank: int, ranks: int, sizes: Sequence[int] = SIZES
) -> dict[int, list[float]]:
    """Seconds of one way between neighbours, by bytes. Every rank takes part.

    One pair after another. Where a rank's core carries its messages, as gloo's on a CPU, what a
    send keeps the sender from computing, while the receiver computes; else half a round trip.
    """
    times: dict[int, list[float]] = {size: [] for size in sizes}
    one_way = _sends if type_of(device).host_carries else _round_trips
    for left in range(ranks - 1):
        group = dist.new_group([left, left + 1])
        for size in sizes:
            if rank in (left, left + 1):
                times[size] += one_way(device, rank, left, size, group)
        dist.barrier()
    return times


def _sends(device: torch.device, rank: int, left: int, size: int, group: Any) -> list[float]:
    """Both ranks send in turn; each returns the seconds of its own sends."""
    compute = product(torch.float32, device)
    times = []
    for turn in range(2 * REPEATS):
        source = left + turn % 2
        # float32 has 4 bytes.
        tensor = torch.empty(size // 4, device=device)
        if rank == source:
            compute()
            tensor.fill_(1)
            begin = time.perf_counter()
            work = dist.isend(tensor, 2 * left + 1 - source, group=group)
            times.append(time.perf_counter() - begin)
        else:
            work = dist.irecv(tensor, source, group=group)
            compute()
        assert work is not None
        work.wait()
    return times[WARM_UP:]


def _round_trips(device: torch.device, rank: int, left: int, size: int, group: Any) -> list[float]:
    other = left + 1 if rank == left else left
    sent, received = torch.ones(size // 4, device=device), torch.empty(size // 4, device=device)
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        for sends in (True, False) if rank == left else (False, True):
            if sends:
                work = dist.isend(sent, other, group=group)
            else:
                work = dist.irecv(received, other, group=group)
            assert work is not None
            work.wait()
        synchronize(device)
        times.append((time.perf_counter() - begin) / 2)
    return times[WARM_UP:]
