"""One rank of `pipecut calibrate`, run as a module: FILE DEVICE [BYTES ...].

Rank 0 writes the reports of all. Messages are of the bytes given, or of those of SIZES.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipecut.calibrate.links import SIZES, message_seconds
from pipecut.calibrate.measured import REPORTS, RankReport
from pipecut.calibrate.speed import device_speed
from pipecut.device.local import use_device
from pipecut.device.memory import bytes_beside_tensors, hold_workspaces
from pipecut.device.types import type_of
from pipecut.runtime.health.timeouts import transfer_timeout
from pipecut.runtime.ranks.rendezvous import find_ranks, join_ranks


def main() -> None:
    """Measure at the same time as all other ranks."""
    path, device_type = Path(sys.argv[1]), type_of(sys.argv[2])
    sizes = [int(size) for size in sys.argv[3:]] or SIZES
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = use_device(device_type, int(os.environ["LOCAL_RANK"]))
    if device_type.of_host:
        torch.set_num_threads(1)
    limit = transfer_timeout()
    store = find_ranks(rank, ranks, limit)
    join_ranks(device_type.backend, store, rank, ranks, limit)
    dist.barrier()
    speed = device_speed(device, int(os.environ["LOCAL_WORLD_SIZE"]))
    messages = message_seconds(device, rank, ranks, sizes)
    hold_workspaces(device)
    report = RankReport(
        speed=speed,
        messages=messages,
        # After the messages and a product, whose communicators and workspaces are part of it.
        beside_tensors=bytes_beside_tensors(device),
    )
    reports: list[Any] = [None] * ranks
    dist.all_gather_object(reports, report.model_dump())
    if rank == 0:
        path.write_bytes(REPORTS.dump_json(REPORTS.validate_python(reports)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
