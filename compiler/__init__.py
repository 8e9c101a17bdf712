"""Model and cluster in, plan out."""

from pathlib import Path

from pipecut.compiler.inputs.auto import AUTO
from pipecut.compiler.passes import Progress, compile_plan, silent
from pipecut.compiler.profile.job import profile_job
from pipecut.compiler.request import Compiled, Options, Request
from pipecut.compiler.search.sizes import SizeOverrides
from pipecut.plan.folder import PlanFolder

__all__ = [
    "AUTO",
    "Compiled",
    "Options",
    "Request",
    "SizeOverrides",
    "compile",
    "compile_plan",
    "profile_job",
]


def compile(
    job_path: str | Path,
    cluster_name: str = "auto",
    output: str | Path = "plan",
    options: Options | None = None,
    progress: Progress = silent,
) -> PlanFolder:
    """Compile a job for a cluster into a plan folder.

    Raises UserFileError or TraceError for the user's files, InfeasibleError when nothing fits.
    """
    request = Request(Path(job_path), cluster_name, Path(output), options or Options())
    return compile_plan(request, progress).folder
