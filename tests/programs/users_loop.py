"""A user's own loop that fails on rank 1: `python -m tests.programs.users_loop PLAN FAILURE`."""

import logging
import sys
import threading
from pathlib import Path

import torch

import pipecut
from tests.models.core import vectors


def main() -> None:
    plan, failure = sys.argv[1:]
    pipe = pipecut.load(plan, device="cpu")
    optimizer = torch.optim.SGD(pipe.parameters(), lr=0.1)
    if failure == "thread" and pipe.world.rank == 1:
        failing = threading.Thread(target=lambda: fail("raise"), name="prefetch")
        failing.start()
        failing.join()
    for step in range(3):
        torch.manual_seed(step)
        pipe.step(**vectors(pipe.plan.batch.global_size))
        if step == 1 and pipe.world.rank == 1:
            fail(failure)
        optimizer.step()
        optimizer.zero_grad()
    logging.getLogger().warning("done")


def fail(failure: str) -> None:
    if failure == "raise":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
    if failure == "file":
        Path("/no/such/file").read_text()
    if failure == "exit":
        sys.exit(3)


if __name__ == "__main__":
    main()
