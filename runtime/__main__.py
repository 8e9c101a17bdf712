"""One rank of a run: `torchrun ... -m pipecut.runtime PLAN/ --data module:function --steps N`."""

# ruff: noqa: E402
from pipecut.rare_collections import collect_rarely, collect_usually
from pipecut.runtime.health.interrupt import INTERRUPTED, end_at_interrupt, raise_at_interrupt

if __name__ == "__main__":
    # Before imports that take seconds, in which a user may press Ctrl-C.
    end_at_interrupt()
    collect_rarely()

from pipecut.runtime.health.rank_errors import end_with_parent

if __name__ == "__main__":
    # Whoever started this rank may end meanwhile, too.
    end_with_parent()

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipecut.run_options import RunOptions, with_run_options
from pipecut.runtime.health.last_words import LastWords, end_now, say
from pipecut.runtime.training.run import run_rank

app = typer.Typer(add_completion=False)


@app.command()
@with_run_options
def run(
    plan: Annotated[Path, typer.Argument(help="The plan folder.")],
    options: RunOptions,
    restarted: Annotated[
        bool, typer.Option("--restarted", help="Go on from the last checkpoint, if there is one.")
    ] = False,
) -> None:
    """Train for some steps."""
    run_rank(plan, options, restarted)


def main() -> None:
    """Exit with the error's own code, and no traceback for any error."""
    words = LastWords(int(rank) if (rank := os.environ.get("RANK", "0")).isdigit() else 0)
    words.listen()
    collect_usually()
    raise_at_interrupt()
    try:
        app(standalone_mode=False)
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        # click's usage errors carry their own text.
        if hasattr(error, "format_message"):
            say(f"pipecut: {error.format_message()} (see --help)")
            end_now(2)
        # The one that load_pipeline made knows what this rank did.
        (LastWords.newest or words).end(type(error), error, error.__traceback__)


if __name__ == "__main__":
    main()
