"""Run a plan. Never imports the compiler: the plan folder is all the two share."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipecut.runtime.pipeline import Pipeline as Pipeline

__all__ = ["load"]


def load(plan: str | Path, device: str | None = None) -> "Pipeline":
    """This rank's stages of a plan, ready to step. Start one process per rank with torchrun.

    `device` ("cpu" or "cuda") overrides what the plan's devices say. Raises PlanError or RunError.
    """
    from pipecut.runtime.pipeline import load_pipeline

    return load_pipeline(Path(plan), device)
