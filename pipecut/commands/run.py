"""`pipecut run`: training on this machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipecut.commands.options import (
    OnFailureOption,
    PlanArgument,
    RestartsOption,
    StallOption,
    TrustOption,
)
from pipecut.commands.trusted import read_trusted
from pipecut.console import progress_line, refuse_other_than
from pipecut.device.types import DEVICE_TYPES
from pipecut.errors import UserFileError
from pipecut.run_options import RunOptions, with_run_options
from pipecut.writable import writable_folder

if TYPE_CHECKING:
    from pipecut.plan.folder import PlanFolder


@with_run_options
def run(
    plan: PlanArgument,
    asked: RunOptions,
    restarts: RestartsOption = None,
    on_failure: OnFailureOption = None,
    stall: StallOption = None,
    trusted: TrustOption = False,
) -> None:
    """Train on this machine, with one process per rank.

    Example: pipecut run plan/ --data mymodel:batches --steps 1000 --checkpoint-every 100

    Several machines: torchrun --nnodes 2 --nproc-per-node 8 ... -m pipecut.runtime PLAN ...
    """
    from pipecut.runtime.launch.restart import run_with_restarts

    refuse_other_than("--on-failure", on_failure, ("restart", "replan"))
    most_restarts = (0 if on_failure is None else 1) if restarts is None else restarts
    _refuse_impossible_run(asked, most_restarts)
    _refuse_plan_that_cannot_run(read_trusted(plan, trusted, asked.code), asked)
    replan = _plan_without if on_failure == "replan" else None
    run_with_restarts(plan, asked.arguments(), most_restarts, stall, replan, _print_message)


def _refuse_impossible_run(asked: RunOptions, restarts: int) -> None:
    """Raises UserFileError for options that would end the run after its start, or lose its work."""
    from pipecut.runtime.checkpoint.folder import home_of, refuse_earlier, refuse_none
    from pipecut.runtime.checkpoint.lock import refuse_locked
    from pipecut.runtime.training.log import refuse_other_log

    if asked.resume:
        refuse_none(asked.checkpoints)
    if restarts and not asked.checkpoint_every:
        raise UserFileError(
            "continuing after a failure needs checkpoints; give --checkpoint-every, such as 100"
        )
    if asked.checkpoint_every:
        if not asked.resume:
            refuse_earlier(asked.checkpoints)
        home = home_of(asked.checkpoints)
        writable_folder(home, "--checkpoints")
        refuse_locked(home)
    if asked.log is not None:
        refuse_other_log(asked.log, asked.resume)
    asked.refuse_unwritable()
    refuse_other_than("--device", asked.device, tuple(DEVICE_TYPES))
    asked.refuse_bad_numbers()


def _refuse_plan_that_cannot_run(folder: "PlanFolder", asked: RunOptions) -> None:
    """Raises UserFileError where a device, code or --data is missing: once, not once per rank."""
    from pipecut.model.functions import find_function, places_of_data, refuse_missing_code
    from pipecut.runtime.ranks.devices import refuse_without_gpu
    from pipecut.runtime.training.requirements import refuse_without_loss

    refuse_without_gpu(folder.plan, asked.device)
    refuse_without_loss(folder.plan)
    model = folder.plan.model
    if asked.data is not None:
        find_function(asked.data, places_of_data(model), "--data")
    else:
        refuse_missing_code(model.inputs, model)
    if model.weights is None and not asked.resume:
        refuse_missing_code(model.factory, model)


def _plan_without(plan: Path, lost_rank: int) -> Path:
    """Compile a plan for the devices that remain."""
    from pipecut.compiler.replan import replan

    with progress_line(f"planning without the device of rank {lost_rank}"):
        return replan(plan, lost_rank)


def _print_message(message: str) -> None:
    print(f"pipecut: {message}", file=sys.stderr, flush=True)
