"""What people look at: `pipecut view` and `pipecut timeline`."""

from pathlib import Path
from typing import Annotated

import typer

from pipecut.commands.options import (
    AgainstOption,
    PageOutput,
    PlanArgument,
    ViewedRunOption,
    ViewedTraceOption,
)
from pipecut.console import console
from pipecut.errors import UserFileError
from pipecut.writable import writable_file


def view(
    plan: PlanArgument,
    run: ViewedRunOption = None,
    trace: ViewedTraceOption = None,
    against: AgainstOption = None,
    output: PageOutput = Path("plan.html"),
) -> None:
    """Write a plan as one HTML page that any browser opens, without a network.

    With --run, --trace or both it shows what was measured beside what was predicted.

    Example: pipecut view plan/ --run report.json --trace trace.json -o plan.html
    """
    write_plan_page(output, plan, run, trace, against)


def write_plan_page(
    page: Path,
    plan: Path,
    run: Path | None = None,
    trace: Path | None = None,
    against: Path | None = None,
) -> None:
    """Write the page of a plan, and say where it is.

    Raises PlanError or UserFileError for what cannot be read, UserFileError for the page.
    """
    from pipecut.quantities import show_bytes
    from pipecut.view.data import page_data
    from pipecut.view.page import write_page
    from pipecut.view.sources import read_sources

    size = write_page(page, page_data(read_sources(plan, run, trace, against)))
    console.print(f"page written to {page} ({show_bytes(size)}); open it in a browser")


def timeline(
    plan: PlanArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Chrome trace to write, for ui.perfetto.dev."),
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Picture to write; needs matplotlib.")] = None,
) -> None:
    """Write the predicted step of a plan as a trace, a picture or both.

    Example: pipecut timeline plan/ --png step.png
    """
    from pipecut.plan.check.check import check as check_plan
    from pipecut.plan.folder import read_plan
    from pipecut.plan.replay.simulate import predicted
    from pipecut.runtime.observe.chrome_trace import write_trace
    from pipecut.runtime.observe.picture import draw

    if output is None and png is None:
        raise UserFileError("say what to write: -o trace.json, --png picture.png, or both")
    folder = read_plan(plan)
    for file, option in ((output, "-o"), (png, "--png")):
        if file is not None:
            writable_file(file, option)
    check_plan(folder)
    step = predicted(folder)
    if output is not None:
        write_trace(output, folder, step, {})
    if png is not None:
        draw(png, folder, step)
    written = " and ".join(str(path) for path in (output, png) if path is not None)
    console.print(
        f"predicted step {step.step_seconds * 1e3:.1f} ms, bubble {step.bubble:.0%};"
        f" written to {written}"
    )
