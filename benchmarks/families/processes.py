"""Functions that run in processes forked from this one, which has imported what they need.

The process that forks must have one thread only. Each fork leads a session of its own, writes what
it prints to a file, and is killed with all that it started when its time is over.
"""

import contextlib
import gc
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Seconds between two looks at processes, and that the others have once one of them failed.
LOOK, PATIENCE = 0.02, 2.0
# Exit code of a process whose function raised an exception.
RAISED = 70


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (negative: the signal), None where time was over."""

    code: int | None
    seconds: float
    printed: str


@dataclass(frozen=True)
class Work:
    """What a process does: a function that returns its exit code, and variables it finds."""

    run: Callable[[], int]
    environment: Mapping[str, str]
    output: Path


def run_forked(works: Sequence[Work], limit: float) -> list[Ended]:
    """Run them at once, at most `limit` seconds; where one fails, the others end soon after."""
    gc.collect()
    gc.freeze()
    deadline = time.monotonic() + limit
    running = {_fork(work): number for number, work in enumerate(works)}
    ended: dict[int, Ended] = {}
    while running and time.monotonic() < deadline:
        time.sleep(LOOK)
        for pid in list(running):
            gone, status, usage = os.wait4(pid, os.WNOHANG)
            if gone:
                number = running.pop(pid)
                code = os.waitstatus_to_exitcode(status)
                ended[number] = _ended(works[number], code, usage)
                if code:
                    deadline = min(deadline, time.monotonic() + PATIENCE)
    for pid, number in running.items():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        ended[number] = _ended(works[number], None, os.wait4(pid, 0)[2])
    return [ended[number] for number in range(len(works))]


def _ended(work: Work, code: int | None, usage: resource.struct_rusage) -> Ended:
    printed = work.output.read_text(encoding="utf-8", errors="replace")
    return Ended(code, usage.ru_utime + usage.ru_stime, printed)


def _fork(work: Work) -> int:
    """Returns the pid of a process that leads its group."""
    work.output.touch()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    code = RAISED
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        file = os.open(work.output, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ.update(work.environment)
        code = work.run()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            import sys

            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
