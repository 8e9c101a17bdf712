"""Pipeline parallelism that a compiler works out.

`compile` makes a plan folder from a job and a cluster, `load` returns a rank's stages of a plan as
a `Pipeline`. Everything that pipecut raises on purpose is a `PipecutError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipecut.version import __version__ as __version__

if TYPE_CHECKING:
    from pipecut.compiler import AUTO as AUTO
    from pipecut.compiler import Options as Options
    from pipecut.compiler import SizeOverrides as SizeOverrides
    from pipecut.compiler import compile as compile
    from pipecut.errors import PipecutError as PipecutError
    from pipecut.plan.schema import Plan as Plan
    from pipecut.runtime import load as load
    from pipecut.runtime.pipeline import Pipeline as Pipeline

# Each public name, and the module that has it: imported when it is asked for, so that a rank that
# only loads a plan never imports the solver.
HOMES = {
    "AUTO": "pipecut.compiler",
    "Options": "pipecut.compiler",
    "Pipeline": "pipecut.runtime.pipeline",
    "PipecutError": "pipecut.errors",
    "Plan": "pipecut.plan.schema",
    "SizeOverrides": "pipecut.compiler",
    "compile": "pipecut.compiler",
    "load": "pipecut.runtime",
}
__all__ = [
    "AUTO",
    "Options",
    "PipecutError",
    "Pipeline",
    "Plan",
    "SizeOverrides",
    "__version__",
    "compile",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module 'pipecut' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
