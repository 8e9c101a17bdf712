"""Model and cluster in, plan out."""

from pipecut.compiler.candidate import Sizes
from pipecut.compiler.pipeline import Compiled, Options, compile, compile_and_explain, profile_job

__all__ = ["Compiled", "Options", "Sizes", "compile", "compile_and_explain", "profile_job"]
