"""Run a plan. Never imports the compiler: the plan folder is all the two share."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipecut.device.types import TypeName

if TYPE_CHECKING:
    from pipecut.runtime.pipeline import Pipeline as Pipeline

__all__ = ["load"]


def load(
    plan: str | Path,
    device: TypeName | None = None,
    restoring: bool = False,
    code: str | Path | None = None,
) -> "Pipeline":
    """This rank's stages of a plan, ready to step. Start one process per rank with torchrun.

    `device` is a type of device to use in place of the plan's. When `restoring`, parameters
    get no values, which takes their time: `restore` must come next. `code` is where the folder of
    the model's code is now, where it was not moved with the plan. Torch, Python and NumPy are
    seeded alike on all ranks, with the job's seed. Raises PlanError or RunError, on every rank
    where ranks differ.
    """
    from pipecut.runtime.pipeline import load_pipeline

    return load_pipeline(
        Path(plan), device, restoring=restoring, code=None if code is None else Path(code)
    )
