"""A placed, scheduled, checked model to a plan folder."""

from pipecut.compiler.emit.folder import write_folder

__all__ = ["write_folder"]
