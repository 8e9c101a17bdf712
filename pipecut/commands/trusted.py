"""Whether the user trusts a plan whose code is to run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipecut.errors import UserFileError

if TYPE_CHECKING:
    from pipecut.plan.folder import PlanFolder


def read_trusted(plan: Path, trusted: bool, code: Path | None) -> "PlanFolder":
    """A plan that the user means to run. One from elsewhere is asked about once.

    Raises UserFileError where nobody answers, or the answer is no.
    """
    from pipecut.plan.folder import read_plan
    from pipecut.plan.trust import refuse_stranger, trust

    if code is not None and not code.is_dir():
        raise UserFileError(f"--code {code}: there is no such folder")
    folder = read_plan(plan, code)
    try:
        if not trusted:
            refuse_stranger(folder)
            return folder
    except UserFileError as error:
        if not sys.stdin.isatty() or not typer.confirm(f"{error}\nRun it?"):
            raise
    trust(folder.plan.seal)
    return folder
