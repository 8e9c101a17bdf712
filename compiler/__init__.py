"""Model and cluster in, plan out."""

from pipecut.compiler.pipeline import Options, compile

__all__ = ["Options", "compile"]
