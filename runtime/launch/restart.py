"""Go on after a rank was lost: start all ranks again from the last checkpoint."""

import os
from collections.abc import Callable
from pathlib import Path

from pipecut.errors import DivergedError, RankLostError, UserFileError
from pipecut.plan.folder import plan_in
from pipecut.runtime.launch.launch import launch
from pipecut.runtime.ranks.devices import visible_devices

# Exit codes of ranks that would end in the same way after a restart.
FINAL = (UserFileError.exit_code, DivergedError.exit_code)
# Returns the plan to go on with, given the plan that ran and the rank that it lost.
Replan = Callable[[Path, int], Path]


def run_with_restarts(
    plan: Path,
    arguments: list[str],
    restarts: int,
    stall: float | None,
    replan: Replan | None,
    report: Callable[[str], None],
) -> None:
    """Train until it is done, with at most so many restarts.

    Raises RankLostError when that is not enough, or when a restart would end in the same way.
    """
    for attempt in range(restarts + 1):
        try:
            restarted = ["--restarted"] if attempt else []
            manifest = plan_in(plan)
            # With --device the ranks' devices need not be those that the plan was made for.
            devices = None if "--device" in arguments else visible_devices(manifest, os.environ)
            command = [str(plan), *arguments, *restarted]
            launch(manifest.ranks, "pipecut.runtime", command, stall, devices)
            return
        except RankLostError as error:
            if attempt == restarts or error.exit_code_of_rank in FINAL:
                raise
            report(str(error))
            if replan is not None:
                plan = replan(plan, error.rank)
            count = f"{attempt + 1} of at most {restarts} restarts"
            report(f"starting again from the last checkpoint, on {plan} ({count})")
