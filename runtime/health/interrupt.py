"""Ctrl-C while a rank's imports run, which takes seconds: it ends without a traceback. Imports nothing slow."""

import os
import signal

# As shells have it.
INTERRUPTED = 130


def end_at_interrupt() -> None:
    """Until Python's own handling is back; what is ignored stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))


def raise_at_interrupt() -> None:
    """Python's own handling again, once there is somebody to name what the rank did."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
