"""What the ranks of this machine do: matrix products, memory and messages, measured by all of them at once.

Run as a module it is one rank: FILE DEVICE [BYTES ...]. Rank 0 writes what all found; messages alone where sizes are given.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipecut.device.local import use_device
from pipecut.device.memory import bytes_beside_tensors, flush_cache, total_bytes
from pipecut.device.types import type_of
from pipecut.device.work import synchronize, timing_event
from pipecut.runtime.health.timeouts import transfer_timeout
from pipecut.runtime.ranks.rendezvous import find_ranks, join_ranks

# Bytes of the messages, and how often each is sent.
SIZES = tuple(1 << e for e in range(10, 26, 2))
REPEATS = 15
# Products are of a layer's size; each is repeated in rounds. A GPU has room for many of a CPU's size at once.
CORE_MATRIX, GPU_MATRIX, ROUNDS = 512, 4096, 9
# Launches that a GPU is given at once, between two events, so that the host's own time is not in what is measured.
QUEUED = 20
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def measure(device: torch.device) -> dict[str, Any]:
    """This rank's FLOP/s by precision, bytes/s of memory, bytes of memory and seconds of overhead an operator."""
    products = {name: _product(dtype, device) for name, dtype in DTYPES.items()}
    long = torch.ones(8_000_000, device=device)
    out = torch.empty_like(long)
    small = torch.ones(8, device=device)
    work = {
        **products,
        "add": lambda: torch.add(long, long, out=out),
        "many": lambda: [small + small for _ in range(200)],
    }
    # In rounds, since a machine that others use is slow for a while, and then is not.
    rounds = [{name: _seconds(one, device) for name, one in work.items()} for _ in range(ROUNDS)]
    middle = {name: statistics.median(one[name] for one in rounds) for name in work}
    flops = {name: 2 * _matrix(device) ** 3 / middle[name] for name in DTYPES}
    return {
        "flops": flops,
        "bandwidth": 3 * 4 * long.numel() / middle["add"],
        "overhead": middle["many"] / 200,
        "memory": total_bytes(device, int(os.environ["LOCAL_WORLD_SIZE"])),
    }


def _matrix(device: torch.device) -> int:
    return CORE_MATRIX if type_of(device).of_host else GPU_MATRIX


def _product(dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    size = _matrix(device)
    # Not ones: a GPU that multiplies zeros and ones draws less power and clocks higher.
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call: on a CPU by the clock, on a GPU between events around queued calls, with its cache flushed before them."""
    times = []
    queued = type_of(device).queued
    for _ in range(REPEATS // 3 if queued else REPEATS):
        if queued:
            times.append(_queued_seconds(work, device))
            continue
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    # The first ones warm up.
    return statistics.median(times[2:])


def _queued_seconds(work: Callable[[], object], device: torch.device) -> float:
    flush_cache(device)
    start, end = (timing_event(device) for _ in range(2))
    start.record()
    for _ in range(QUEUED):
        work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / QUEUED


def messages(
    device: torch.device, rank: int, ranks: int, sizes: Sequence[int] = SIZES
) -> dict[int, list[float]]:
    """Seconds of one way between neighbours, by bytes. One pair after another; every rank takes part.

    Of gloo on a CPU, what a send keeps the sender, while the receiver computes; else half a round trip.
    """
    found: dict[int, list[float]] = {size: [] for size in sizes}
    one_way = _sends if type_of(device).host_carries else _round_trips
    for left in range(ranks - 1):
        group = dist.new_group([left, left + 1])
        for size in sizes:
            if rank in (left, left + 1):
                found[size] += one_way(device, rank, left, size, group)
        dist.barrier()
    return found


def _sends(device: torch.device, rank: int, left: int, size: int, group: Any) -> list[float]:
    product = _product(torch.float32, device)
    times = []
    for at in range(2 * REPEATS):
        source = left + at % 2
        tensor = torch.empty(size // 4, device=device)
        if rank != source:
            work = dist.irecv(tensor, source, group=group)
            product()
        else:
            product()
            tensor.fill_(1)
            begin = time.perf_counter()
            work = dist.isend(tensor, 2 * left + 1 - source, group=group)
            times.append(time.perf_counter() - begin)
        assert work is not None
        work.wait()
    return times[2:]


def _round_trips(device: torch.device, rank: int, left: int, size: int, group: Any) -> list[float]:
    other = left + 1 if rank == left else left
    there, back = torch.ones(size // 4, device=device), torch.empty(size // 4, device=device)
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        for send in (True, False) if rank == left else (False, True):
            work = (
                dist.isend(there, other, group=group)
                if send
                else dist.irecv(back, other, group=group)
            )
            assert work is not None
            work.wait()
        synchronize(device)
        times.append((time.perf_counter() - begin) / 2)
    return times[2:]


def main() -> None:
    """One rank."""
    path, name, *sizes = sys.argv[1:]
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    kind = type_of(name)
    device = use_device(kind, int(os.environ["LOCAL_RANK"]))
    if kind.of_host:
        torch.set_num_threads(1)
    limit = transfer_timeout()
    store = find_ranks(rank, ranks, limit)
    join_ranks(kind.backend, store, rank, ranks, limit)
    dist.barrier()
    compute = {} if sizes else measure(device)
    times = messages(device, rank, ranks, [int(size) for size in sizes] or SIZES)
    # After the messages, whose communicators are part of it.
    outside = bytes_beside_tensors(device)
    own = {"compute": compute, "messages": times, "outside": outside}
    everyone: list[Any] = [None] * ranks
    dist.all_gather_object(everyone, own)
    if rank == 0:
        Path(path).write_text(json.dumps(everyone))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
