"""A job's operators and layers, measured on this machine."""

from pathlib import Path

import torch

from pipecut.compiler.inputs.auto import AUTO
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.inputs.machine import kind_here
from pipecut.compiler.profile.background_load import background_load
from pipecut.compiler.profile.pace import pace_of
from pipecut.compiler.profile.profile import Profiled, ProfileProgress, profile
from pipecut.compiler.profile.store import default_path
from pipecut.compiler.trace.batch import example_batch
from pipecut.compiler.trace.trace import trace
from pipecut.device.memory import keep_memory
from pipecut.device.types import type_of


def profile_job(
    job_path: Path,
    device: torch.device,
    microbatch: int | None,
    stored: Path | None,
    progress: ProfileProgress,
    ranks: int = 1,
) -> Profiled:
    """Measure with `ranks` processes at work, and keep what is measured in `stored`.

    Raises UserFileError or TraceError.
    """
    keep_memory(device)
    job = read_job(job_path)
    size = job.spec.batch.microbatch if microbatch is None else microbatch
    size = 1 if size is AUTO else size
    job = job.with_microbatch(size)
    progress("tracing the model", 0, 1)
    graph = trace(job)
    batch = example_batch(job, size).tensors
    kind = kind_here(type_of(device))
    # By itself: with what it is measured beside, it is slower each time.
    pace = pace_of(device)
    with background_load(job.path, size, ranks - 1):
        path = stored or default_path()
        return profile(graph, batch, size, kind, device, path, progress, pace)
