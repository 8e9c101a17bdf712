"""Pipeline parallelism that a compiler works out.

`compile` makes a plan folder from a job and a cluster, `load` gives a rank its stages of a plan.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipecut.compiler import compile as compile
    from pipecut.runtime import load as load

__version__ = "0.1.0"
__all__ = ["compile", "load", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazy, so that a rank that only loads a plan never imports the solver.
    if name == "compile":
        from pipecut.compiler import compile

        return compile
    if name == "load":
        from pipecut.runtime import load

        return load
    raise AttributeError(f"module 'pipecut' has no attribute {name!r}")
