"""Ctrl-C or SIGTERM ends a command with one line, also within code that ignores them for long."""

import os
import signal
import sys
import threading
import time
from types import FrameType

# Seconds for a command to remove what it began; native code, such as a solver, may ignore signals.
PATIENCE = 3.0


class AskedToEnd(BaseException):
    """A signal asked the process to end. Not a KeyboardInterrupt, which typer turns into a code."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def listen() -> None:
    """From now on raise AskedToEnd in the main thread; ignored signals stay so, as under nohup."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()


def say_stopped() -> None:
    """Print that the command stopped, in one write."""
    print("pipecut: stopped\n", end="", file=sys.stderr, flush=True)


def _end(number: int, frame: FrameType | None) -> None:
    raise AskedToEnd(number)


def _watch(reading: int) -> None:
    while True:
        number = os.read(reading, 1)[0]
        # While ranks run, the launcher's handler stands in its place and asks them to stop.
        if signal.getsignal(number) is _end:
            time.sleep(PATIENCE)
            say_stopped()
            os._exit(128 + number)
