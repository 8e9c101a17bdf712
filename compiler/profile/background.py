"""Another rank's work, beside which this one's is measured: ranks share a machine's memory and caches.

Run as a module: JOB MICROBATCH. It says `ready`, and goes on until it is ended.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.profile.layers import Runner, chains_of, layers_of
from pipecut.compiler.trace.batch import example_batch
from pipecut.compiler.trace.trace import trace
from pipecut.device.memory import keep_memory

CPU = torch.device("cpu")


@contextmanager
def background_load(job: Path, microbatch: int, count: int) -> Iterator[None]:
    """So many processes go through the job's layers meanwhile, one thread each."""
    command = [
        sys.executable,
        "-m",
        "pipecut.compiler.profile.background",
        str(job),
        str(microbatch),
    ]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            # Nothing comes when it ended: then this rank is measured alone.
            process.stdout.readline()
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def main() -> None:
    """Forward and backward of every layer, again and again."""
    path, size = sys.argv[1:]
    torch.set_num_threads(1)
    keep_memory(CPU)
    job = read_job(Path(path)).with_microbatch(int(size))
    graph = trace(job)
    batch = example_batch(job, int(size)).tensors
    pieces = layers_of(graph)
    print("ready", flush=True)
    while True:
        runner = Runner(graph, batch, CPU)
        for chain in chains_of(graph, pieces, CPU):
            runner.run(chain, timed=True)


if __name__ == "__main__":
    main()
