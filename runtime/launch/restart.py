"""Go on after a rank was lost: the ranks start again, from the last checkpoint, on the same plan or on another one."""

import os
from collections.abc import Callable
from pathlib import Path

from pipecut.errors import DivergedError, RankLostError, UserFileError
from pipecut.plan.folder import read_plan
from pipecut.runtime.launch.launch import launch
from pipecut.runtime.ranks.devices import visible_devices

# What ends a rank with one of these would end it again.
FINAL = (UserFileError.exit_code, DivergedError.exit_code)
# Gives the plan to go on with, from the one that ran and the rank that it lost.
Replan = Callable[[Path, int], Path]


def run_with_restarts(
    plan: Path,
    arguments: list[str],
    restarts: int,
    stall: float | None,
    replan: Replan | None,
    tell: Callable[[str], None],
) -> None:
    """Train until it is done, starting again at most so many times.

    Raises RankLostError when that is not enough, or when what ended a rank would end it again.
    """
    for begun in range(restarts + 1):
        try:
            again = ["--restarted"] if begun else []
            manifest = read_plan(plan).plan
            # A device of the user's choice need not be one that the plan was made for.
            devices = None if "--device" in arguments else visible_devices(manifest, os.environ)
            command = [str(plan), *arguments, *again]
            launch(manifest.ranks, "pipecut.runtime", command, stall, devices)
            return
        except RankLostError as error:
            if begun == restarts or error.exit_code_of_rank in FINAL:
                raise
            tell(str(error))
            if replan is not None:
                plan = replan(plan, error.rank)
            tell(
                f"starting again from the last checkpoint, on {plan} ({begun + 1} of at most {restarts} restarts)"
            )
