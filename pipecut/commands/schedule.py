"""`pipecut schedule`: a plan's schedule to and from the CSV of torch.distributed.pipelining."""

from pathlib import Path
from typing import Annotated

import typer

from pipecut.commands.options import PlanArgument
from pipecut.console import console
from pipecut.writable import writable_file

app = typer.Typer(
    no_args_is_help=True,
    help="Take a plan's schedule to torch.distributed.pipelining, or one from there.",
)
OutputOption = Annotated[Path, typer.Option("-o", "--output", help="The CSV file to write.")]
MessagesOption = Annotated[
    bool,
    typer.Option(
        "--messages",
        help="Write sends and receives, too (torch's format compute_comms); default: computes "
        "only, as torchtitan's pipeline_parallel_schedule_csv is.",
    ),
]
CsvArgument = Annotated[Path, typer.Argument(help="A CSV of either of torch's formats.")]
NewMessagesOption = Annotated[
    bool,
    typer.Option(
        "--new-messages",
        help="Order sends and receives as compile does, whatever the file says of them.",
    ),
]
WholeBackwardOption = Annotated[
    bool,
    typer.Option(
        "--whole-backward",
        help="Run both parts of a split backward (I and W) where its I is.",
    ),
]


@app.command("export")
def export_csv(
    plan: PlanArgument,
    output: OutputOption = Path("schedule.csv"),
    messages: MessagesOption = False,
) -> None:
    """Write what each rank does as a CSV that torch's schedules load: a row per rank.

    Example: pipecut schedule export plan/ -o schedule.csv
    """
    from pipecut.compiler.exchange.torch_csv import csv_of
    from pipecut.plan.folder import read_plan

    folder = read_plan(plan)
    writable_file(output, "-o")
    output.write_text(csv_of(folder.actions, messages), encoding="utf-8", newline="")
    form = "compute_comms" if messages else "compute_only"
    console.print(
        f'schedule written to {output}; next, in torch: schedule._load_csv("{output}", "{form}")'
    )


@app.command("import")
def import_csv(
    plan: PlanArgument,
    csv: CsvArgument,
    new_messages: NewMessagesOption = False,
    whole_backward: WholeBackwardOption = False,
) -> None:
    """Give a plan the schedule of a CSV: it is lowered, proven, predicted anew and sealed.

    A schedule that deadlocks or needs more memory than there is is refused with the reason and a
    picture, and the plan stays as it was.

    Example: pipecut schedule import plan/ zero_bubble.csv
    """
    from pipecut.compiler.exchange.fitting import ImportOptions
    from pipecut.compiler.exchange.imported import with_schedule
    from pipecut.compiler.exchange.torch_csv import read_csv
    from pipecut.plan.edit.sealing import write_actions
    from pipecut.plan.folder import read_plan

    folder, schedule = read_plan(plan), read_csv(csv)
    before = folder.plan.prediction
    changed = with_schedule(folder, schedule, csv, ImportOptions(new_messages, whole_backward))
    for line in schedule.notes():
        console.print(line)
    write_actions(changed)
    after = changed.plan.prediction
    console.print(
        f"predicted step {after.step_seconds * 1e3:.3g} ms, bubble {after.bubble:.0%} (before: "
        f"{before.step_seconds * 1e3:.3g} ms, {before.bubble:.0%})"
    )
    console.print(f"{plan} has the schedule of {csv}; next: pipecut verify {plan}")
