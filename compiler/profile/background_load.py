"""The work of other ranks, beside which one is measured: ranks share memory and caches.

Run as a module, JOB MICROBATCH: it prints `ready`, and works until it is ended.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.profile.layers import chains_of, layers_of
from pipecut.compiler.profile.runner import Runner
from pipecut.compiler.trace.batch import example_batch
from pipecut.compiler.trace.trace import trace
from pipecut.device.memory import keep_memory

CPU = torch.device("cpu")
MODULE = "pipecut.compiler.profile.background_load"


@contextmanager
def background_load(job: Path, microbatch: int, processes: int) -> Iterator[None]:
    """So many processes go through the job's layers meanwhile, one thread each."""
    command = [sys.executable, "-m", MODULE, str(job), str(microbatch)]
    workers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(processes)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            # Returns nothing where the worker ended: then this rank is measured by itself.
            worker.stdout.readline()
        yield
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def main() -> None:
    """Forward and backward of every layer, over and over."""
    path, microbatch = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    keep_memory(CPU)
    job = read_job(path).with_microbatch(microbatch)
    graph = trace(job)
    batch = example_batch(job, microbatch).tensors
    layers = layers_of(graph)
    print("ready", flush=True)
    while True:
        runner = Runner(graph, batch, CPU)
        for chain in chains_of(graph, layers, CPU):
            runner.run(chain, timed=True)


if __name__ == "__main__":
    main()
