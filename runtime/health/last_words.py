"""The end of a rank whose code fails: one message with rank, step, action, error and line.

A normal exit would wait in the process groups for ranks that wait for this one. So nothing runs
after the message: no `atexit`, no destructors. PIPECUT_DEBUG=1 in the environment shows the
traceback too.
"""

import logging
import math
import os
import signal
import site
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NoReturn, TextIO

from pipecut.device.types import NCCL
from pipecut.errors import PeerLostError, PipecutError, RunError
from pipecut.runtime.health.interrupt import INTERRUPTED
from pipecut.runtime.health.rank_errors import print_error
from pipecut.runtime.health.status import Status

Hook = Callable[[type[BaseException], BaseException, TracebackType | None], Any]
# Shows tracebacks.
DEBUG = "PIPECUT_DEBUG"
# Seconds that communicators have to be aborted.
ABORT = 5.0
# The prefix of our own threads' names.
OWN_THREADS = "pipecut-"


class LastWords:
    """Ends this process when an exception reaches the top. `status` is None until there is one.

    `newest` is the instance in use: hooks of typer and torch.distributed may be there before it.
    """

    newest: ClassVar["LastWords | None"] = None
    # Set by a heartbeat between hosts: shares the message with them, and adds why a rank was lost.
    explain: ClassVar[Callable[[BaseException, str], str] | None] = None

    def __init__(self, rank: int, status: Status | None = None) -> None:
        self.rank, self.status = rank, status
        self.before: Hook = sys.excepthook
        if LastWords.newest is not None:
            self.before = LastWords.newest.before

    def listen(self) -> None:
        """Handle what reaches the top of this process, from now on."""
        LastWords.newest = self
        sys.excepthook = self.end
        threading.excepthook = self._of_thread

    def end(
        self,
        kind: type[BaseException],
        error: BaseException,
        trace: TracebackType | None,
    ) -> NoReturn:
        """Print what happened and end the process. Never returns."""
        text = describe(error, trace, self.rank, self._activity())
        if LastWords.explain is not None:
            text = LastWords.explain(error, text)
        if isinstance(error, PipecutError):
            error.args = (text,)
            with redirect_stderr(_stream()):
                print_error(error)
        else:
            say(f"pipecut: {text}")
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            traceback.print_exception(kind, error, trace, file=_stream())
        elif self.before is not sys.__excepthook__ and not _prints(self.before):
            # Such as that of an experiment tracker.
            self.before(kind, error, trace)
        end_now(exit_code(error))

    def _activity(self) -> str:
        return str(self.status.current()) if self.status is not None else "before it began"

    def _of_thread(self, arguments: threading.ExceptHookArgs) -> None:
        """End the rank where a thread of ours failed; report a user's thread and go on."""
        thread = arguments.thread.name if arguments.thread is not None else "a thread"
        error = arguments.exc_value
        if error is None or isinstance(error, SystemExit):
            return
        if thread.startswith(OWN_THREADS):
            self.end(arguments.exc_type, error, arguments.exc_traceback)
        about = describe(error, arguments.exc_traceback, self.rank, self._activity())
        say(f"pipecut: thread '{thread}' ended and the rank goes on: {about}")


def describe(error: BaseException, trace: TracebackType | None, rank: int, activity: str) -> str:
    """The message for an exception: rank, what it did, which error, and the user's line."""
    cause = error.__cause__ if isinstance(error, PipecutError) else error
    frame = users_frame(cause.__traceback__ if cause is not error and cause else trace, OTHERS_CODE)
    where = f", at {frame}" if frame is not None else ""
    remedy = ""
    if type(cause).__name__ == "OutOfMemoryError":
        remedy = "; compile with a larger reserve: in the cluster file, or a smaller microbatch"
    if isinstance(error, PipecutError):
        step = activity.split(",")[0] if activity.startswith("in step") else activity
        text = str(error).replace(f"rank {rank}, action", f"rank {rank}, {step}, action", 1)
        # The text of these says where already.
        ours = cause is None or isinstance(cause, PipecutError) or isinstance(error, PeerLostError)
        return text if ours else f"{text}{where}{remedy}"
    if isinstance(error, KeyboardInterrupt):
        return f"rank {rank} was stopped {activity}"
    debug = "" if where or remedy else f" ({DEBUG}=1 shows the traceback)"
    return f"rank {rank} {activity}: {_reason(error)}{where}{remedy}{debug}"


def _reason(error: BaseException) -> str:
    """The error's type and the first line of its text."""
    if isinstance(error, SystemExit):
        asked = f"code asked Python to exit with {error.code!r}"
        return f"{asked}; the other ranks cannot go on without it"
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def _folders_of_others() -> tuple[Path, ...]:
    """Folders of code that is not the user's: ours, Python's, and what is installed."""
    runtime = Path(__file__).resolve().parents[1]
    package = Path(__file__).absolute().parents[2]
    installed = [*site.getsitepackages(), sysconfig.get_paths()["purelib"]]
    python = [sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["platstdlib"]]
    folders = [runtime, runtime.parent / "compiler", package, *map(Path, [*installed, *python])]
    return tuple(dict.fromkeys(folder.resolve() for folder in folders if folder.name))


OTHERS_CODE = _folders_of_others()


def users_frame(trace: TracebackType | None, excluded: Sequence[Path]) -> str | None:
    """`file:line in function` of the innermost frame outside these folders."""
    for frame in reversed(traceback.extract_tb(trace)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.resolve().is_relative_to(f) for f in excluded):
            return f"{frame.filename}:{frame.lineno} in {frame.name}"
    return None


def exit_code(error: BaseException) -> int:
    """The exit code of a rank that this error ends."""
    if isinstance(error, PipecutError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code:
        return error.code
    return RunError.exit_code


def say(message: str) -> None:
    """Print a message in one write, since ranks share the stream."""
    print(f"{message}\n", end="", file=_stream(), flush=True)


def _stream() -> TextIO:
    # torch's own hook, which may call ours, holds back what is written to sys.stderr.
    return sys.__stderr__ or sys.stderr


def _prints(hook: Hook) -> bool:
    """Whether a hook is of torch.distributed or typer, which print the traceback themselves."""
    return str(getattr(hook, "__module__", "")).startswith(("torch.", "typer."))


def end_now(code: int) -> NoReturn:
    """Abort the communicators, so that no other rank waits for this one, and end the process."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            # The stream is closed, so nobody reads it.
            pass
    logging.shutdown()
    finished_within(ABORT, _abort)
    os._exit(code)


def finished_within(seconds: float, work: Callable[[], None]) -> bool:
    """Call a function that may never return; whether it returned within so many seconds."""
    thread = threading.Thread(target=work, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # Python starts no thread once it exits; the alarm then ends the process.
        signal.alarm(math.ceil(seconds))
        work()
        signal.alarm(0)
        return True
    thread.join(seconds)
    return not thread.is_alive()


def _abort() -> None:
    # With gloo, the process's end closes the connections. NCCL's kernels would wait on the device.
    if "torch" not in sys.modules:
        return
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_backend() == NCCL:
        try:
            dist.distributed_c10d._abort_process_group()
        except (RuntimeError, ValueError):
            # The process ends in any case.
            pass
