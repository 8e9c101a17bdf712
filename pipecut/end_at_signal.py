"""Ctrl-C or SIGTERM of a command ends it with one line, also within code that would not notice for long."""

import os
import signal
import sys
import threading
import time
from types import FrameType

# Seconds in which a command removes what it has begun; native code, such as a solver, may not notice.
PATIENCE = 3.0


class AskedToEnd(BaseException):
    """The process was asked to end. No KeyboardInterrupt, which typer makes an exit code of."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def listen() -> None:
    """From now on raise AskedToEnd in the main thread; what is ignored, as under nohup, stays so."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()


def say_stopped() -> None:
    """The word, in one write."""
    print("pipecut: stopped\n", end="", file=sys.stderr, flush=True)


def _end(number: int, frame: FrameType | None) -> None:
    raise AskedToEnd(number)


def _watch(reading: int) -> None:
    while True:
        number = os.read(reading, 1)[0]
        # While ranks run, their launcher asks them to stop instead.
        if signal.getsignal(number) is _end:
            time.sleep(PATIENCE)
            say_stopped()
            os._exit(128 + number)
