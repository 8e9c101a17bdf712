"""What the commands share: where they print, progress with the time left, and checks of options."""

import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from pipecut.errors import UserFileError

if TYPE_CHECKING:
    from pipecut.compiler.inputs.auto import Auto
    from pipecut.compiler.profile.profile import ProfileProgress

# Columns where there is no terminal: rich's own 80 would fold every table.
WIDTH = 140

# Names of a user's module or of a plan may look like rich's markup, so none is read.
console = Console(
    width=None if sys.stdout.isatty() else WIDTH,
    markup=False,
    emoji=False,
)


@contextmanager
def progress_bar() -> Iterator["ProfileProgress"]:
    """A bar with the time left. Yields the function that reports what is done and of how many."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting")

        def report(step: str, done: int, total: int) -> None:
            progress.update(task, description=step, completed=done, total=total)

        yield report
        progress.update(task, description="done", completed=progress.tasks[0].total)


@contextmanager
def progress_line(first: str) -> Iterator[Callable[[str], None]]:
    """A line that says what is under way; where there is no terminal, a line for each step.

    Yields the function that reports the next step.
    """
    stderr = Console(stderr=True)
    with stderr.status(escape(first)) as status:

        def report(step: str) -> None:
            status.update(escape(step))
            if not stderr.is_terminal:
                stderr.print(f"{step} ...", markup=False)

        yield report


def number_or_auto(option: str, value: str | None) -> "int | Auto | None":
    """The number, AUTO, or None where the option was not given. Raises UserFileError."""
    from pipecut.compiler.inputs.auto import AUTO

    if value is None:
        return None
    if value == AUTO.value:
        return AUTO
    if not value.isdigit() or int(value) < 1:
        raise UserFileError(f"{option} {value}: must be a number of 1 or more, or auto")
    return int(value)


def refuse_other_than(option: str, value: str | None, allowed: Collection[str]) -> None:
    """Raises UserFileError for a value that is not allowed; None, not given, is."""
    if value is not None and value not in allowed:
        raise UserFileError(f"{option} {value}: must be {' or '.join(allowed)}")


def show_warnings_plainly() -> None:
    """Print warnings about the user's files without the line of this program that found them."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
        if issubclass(category, FutureWarning):
            print(f"pipecut: warning: {message}", file=sys.stderr)
        else:
            shown(message, category, *rest, **options)

    warnings.showwarning = show
