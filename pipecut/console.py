"""What the commands share: where they print, a bar with the time left, and options told apart."""

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from pipecut.errors import UserFileError

if TYPE_CHECKING:
    from pipecut.compiler.passes import ProfileProgress

# Where there is no terminal, 80 columns would fold the tables to nothing. Names of a user's, or of a plan's, may look like
# rich's markup, so none is read.
console = (
    Console(markup=False, emoji=False)
    if sys.stdout.isatty()
    else Console(width=140, markup=False, emoji=False)
)


@contextmanager
def bar() -> Iterator["ProfileProgress"]:
    """A bar with the time left, to be told what is done."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting")

        def tell(what: str, done: int, of: int) -> None:
            progress.update(task, description=what, completed=done, total=of)

        yield tell
        progress.update(task, description="done", completed=progress.tasks[0].total)


def count(option: str, value: str | None) -> int | None:
    """A number from 1, or 0 for auto."""
    if value is None or value == "auto":
        return None if value is None else 0
    if not value.isdigit() or int(value) < 1:
        raise UserFileError(f"{option} {value}: must be a number from 1, or auto")
    return int(value)


def one_of(option: str, value: str | None, known: Collection[str]) -> None:
    """Raises UserFileError for another value."""
    if value is not None and value not in known:
        raise UserFileError(f"{option} {value}: must be {' or '.join(known)}")
