"""Model and cluster in, plan out."""

from pipecut.compiler.passes import Compiled, Options, compile, compile_and_explain, profile_job
from pipecut.compiler.search.sizes import SizeOverrides

__all__ = ["Compiled", "Options", "SizeOverrides", "compile", "compile_and_explain", "profile_job"]
