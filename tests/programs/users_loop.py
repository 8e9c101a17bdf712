"""A user's own training loop that fails on rank 1: `python -m tests.programs.users_loop PLAN WHAT`."""

import logging
import sys
import threading
from pathlib import Path

import torch

import pipecut
from tests.models.core import vectors


def main() -> None:
    plan, what = sys.argv[1:]
    pipe = pipecut.load(plan, device="cpu")
    optimizer = torch.optim.SGD(pipe.parameters(), lr=0.1)
    if what == "thread" and pipe.world.rank == 1:
        failing = threading.Thread(target=lambda: fail("raise"), name="prefetch")
        failing.start()
        failing.join()
    for step in range(3):
        torch.manual_seed(step)
        pipe.step(**vectors(pipe.plan.batch.global_size))
        if step == 1 and pipe.world.rank == 1:
            fail(what)
        optimizer.step()
        optimizer.zero_grad()
    logging.getLogger().warning("done")


def fail(what: str) -> None:
    if what == "raise":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
    if what == "file":
        Path("/no/such/file").read_text()
    if what == "exit":
        sys.exit(3)


if __name__ == "__main__":
    main()
