"""What prints: `pipecut show`, `pipecut layout` and `pipecut specs`."""

from typing import Annotated

import typer

from pipecut.commands.options import PlanArgument
from pipecut.console import console
from pipecut.errors import UserFileError


def show(
    plan: PlanArgument,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object; docs/plan-format.md has its keys."),
    ] = False,
) -> None:
    """Print a plan's table: stages, devices, memory, times, what is proven.

    Example: pipecut show plan/ --json | jq .prediction.step_seconds
    """
    from pipecut.plan.folder import plan_in

    read = plan_in(plan)
    if as_json:
        from pipecut.tables.plan_json import shown_plan

        print(shown_plan(read).model_dump_json())
    else:
        from pipecut.tables.plan import print_plan

        print_plan(read, console)


def layout(plan: PlanArgument) -> None:
    """Print a plan's cut as Megatron's --pipeline-model-parallel-layout, where it has one.

    Example: pipecut layout plan/
    """
    from pipecut.compiler.partition.layouts import layout_of
    from pipecut.plan.folder import read_plan

    folder = read_plan(plan)
    operators, stages = folder.graph.operators, len(folder.plan.stages)
    parameters = {parameter.value for parameter in folder.graph.parameters}
    placed_on = [operator.placed_on for operator in operators]
    try:
        print(layout_of(operators, parameters, placed_on, stages))
    except UserFileError as error:
        raise UserFileError(
            f"{plan} has no layout: {error}; placement: {{never_cut: [...]}} in the job file keeps "
            "modules whole"
        ) from None


def specs() -> None:
    """List the clusters, device kinds, links and schedules that come with pipecut.

    Example: pipecut specs, then pipecut compile job.yaml --cluster hgx-h100
    """
    from pipecut.tables.specs import print_specs

    print_specs(console)
