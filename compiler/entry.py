"""What `pipecut.compile` does: a request from its parts, and the plan folder alone in return."""

from pathlib import Path

from pipecut.compiler.passes import Progress, compile_plan, silent
from pipecut.compiler.request import Options, Request
from pipecut.plan.folder import PlanFolder


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
