"""Model and cluster in, plan out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipecut.rare_collections import rare_collections

if TYPE_CHECKING:
    from pipecut.compiler.entry import compile as compile
    from pipecut.compiler.inputs.auto import AUTO as AUTO
    from pipecut.compiler.passes import compile_plan as compile_plan
    from pipecut.compiler.profile.job import profile_job as profile_job
    from pipecut.compiler.request import Compiled as Compiled
    from pipecut.compiler.request import Options as Options
    from pipecut.compiler.request import Request as Request
    from pipecut.compiler.search.sizes import SizeOverrides as SizeOverrides

# Each public name, and the module that has it: imported when it is asked for, so that whoever reads
# a cluster file or lists the schedules imports neither torch nor the solver.
HOMES = {
    "AUTO": "pipecut.compiler.inputs.auto",
    "Compiled": "pipecut.compiler.request",
    "Options": "pipecut.compiler.request",
    "Request": "pipecut.compiler.request",
    "SizeOverrides": "pipecut.compiler.search.sizes",
    "compile": "pipecut.compiler.entry",
    "compile_plan": "pipecut.compiler.passes",
    "profile_job": "pipecut.compiler.profile.job",
}
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


def __getattr__(name: str) -> Any:
    if name in HOMES:
        # Nothing that an import makes is garbage, and Python looks for some a dozen times.
        with rare_collections():
            return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module 'pipecut.compiler' has no attribute {name!r}")
