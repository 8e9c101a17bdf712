"""`pipecut verify`: a plan beside the unsplit model."""

from typing import Annotated

import typer

from pipecut.commands.options import PlanArgument, TrustOption
from pipecut.commands.trusted import read_trusted
from pipecut.console import console, progress_line
from pipecut.quantities import counted
from pipecut.run_options import CodeOption


def verify(
    plan: PlanArgument,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps to compare.")] = 3,
    evaluation: Annotated[
        bool, typer.Option("--eval", help="Compare eval mode as well: its loss and every output.")
    ] = False,
    code: CodeOption = None,
    trusted: TrustOption = False,
) -> None:
    """Run the plan beside the unsplit model and compare loss, gradients, parameters and buffers.

    On this machine, with a process per rank; prints the tensor of each kind that differs most.

    Example: pipecut verify plan/ --steps 1 --eval
    """
    from pipecut.runtime.verify.verify import verify as verify_plan

    read_trusted(plan, trusted, code)
    with progress_line(f"running {counted(steps, 'step')} of the plan and of the unsplit model"):
        result = verify_plan(plan, steps, evaluation, code=code)
    console.print(str(result))
    if not result.passed:
        raise typer.Exit(4)
