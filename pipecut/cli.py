"""The command line: the commands in the order of --help, and how they end.

Each command is in pipecut/commands/, its options in options.py there. A command imports what it
needs when it runs, so that --help, show and specs start at once; the packages `pipecut` and
`pipecut.compiler` import a public name when it is asked for. Nothing else imports late for the
sake of time."""

import sys
from typing import Annotated

import typer

from pipecut.commands.check import check, seal
from pipecut.commands.compile import compile
from pipecut.commands.export import export, export_onnx
from pipecut.commands.init import init
from pipecut.commands.measure import calibrate, profile
from pipecut.commands.predict import predict
from pipecut.commands.run import run
from pipecut.commands.schedule import app as schedule_app
from pipecut.commands.show import layout, show, specs
from pipecut.commands.solve import solve
from pipecut.commands.verify import verify
from pipecut.commands.view import timeline, view
from pipecut.console import show_warnings_plainly
from pipecut.end_at_signal import AskedToEnd, listen, say_stopped
from pipecut.errors import PipecutError
from pipecut.rare_collections import collect_no_more, collect_rarely
from pipecut.version import __version__

COMMANDS = (
    init,
    compile,
    profile,
    calibrate,
    solve,
    show,
    layout,
    check,
    seal,
    verify,
    run,
    predict,
    view,
    timeline,
    export,
    export_onnx,
    specs,
)

app = typer.Typer(add_completion=False, no_args_is_help=True)
for command in COMMANDS:
    app.command()(command)
app.add_typer(schedule_app, name="schedule")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pipecut {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Cut a PyTorch model into pipeline stages and train it.

    The usual order: compile a job, show the plan, verify it, run it.

    Begin with pipecut init my-training, which writes a job and a model; or with a Hugging Face
    folder: pipecut compile --model llama/ --sequence 2048 --batch 64
    """


def main() -> None:
    """Run a command. Known errors end with their message and exit code; only a bug of pipecut's
    shows a traceback."""
    listen()
    collect_rarely()
    show_warnings_plainly()
    try:
        code = app(standalone_mode=False)
    except PipecutError as error:
        print(f"pipecut: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except AskedToEnd as signal_received:
        say_stopped()
        sys.exit(signal_received.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        say_stopped()
        sys.exit(130)
    except OSError as error:
        print(f"pipecut: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(4)
    except Exception as error:
        # click's usage errors carry their own code and text.
        if not hasattr(error, "format_message"):
            raise
        print(f"pipecut: {error.format_message()} (see --help)", file=sys.stderr)
        sys.exit(2)
    finally:
        collect_no_more()
    sys.exit(code or 0)
