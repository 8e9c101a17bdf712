"""`pipecut check` and `pipecut seal`: a plan proven, and accepted as it is now."""

from pathlib import Path

from pipecut.commands.options import PlanArgument
from pipecut.console import console


def check(plan: PlanArgument) -> None:
    """Prove a plan sound: every operator is placed, no cycle, no deadlock, memory fits.

    It runs no code of the plan, and prints a line for each thing that it proves.

    Example: pipecut check plan/
    """
    from pipecut.plan.check.check import check as check_plan
    from pipecut.plan.folder import read_plan
    from pipecut.plan.part.numbers import numbers_of_messages

    folder = read_plan(plan)
    for line in [*check_plan(folder), *numbers_of_messages(folder)]:
        console.print(f"ok  {line}")


def seal(plan: PlanArgument) -> None:
    """Accept the files of a plan that you edited: prove it sound as it is now, then seal it.

    Where schedule.yaml was edited, memory and the step's seconds are predicted anew.

    Example: edit plan/stages/stage_0.py, then pipecut seal plan/ && pipecut verify plan/
    """
    from pipecut.plan.edit.sealing import proven
    from pipecut.plan.folder import write_seal
    from pipecut.plan.trust import code_outside, is_trusted, trust

    folder, lines = proven(plan)
    for line in lines:
        console.print(f"ok  {line}")
    # A stranger's plan need only come with a wrong seal to be sealed here by somebody who has
    # seen none of its code: sealing it does not make it trusted.
    trusted = is_trusted(folder.plan.seal) or not code_outside(folder, Path.cwd())
    new_seal = write_seal(folder)
    if trusted:
        trust(new_seal)
    else:
        console.print(
            "it was not compiled here: read its code; verify and run will ask for --trust once"
        )
    console.print(f"{plan} is sealed; next: pipecut verify {plan}")
