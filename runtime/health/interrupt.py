"""Ctrl-C while a rank's imports run, which takes seconds: the rank ends without a traceback.

Imports nothing slow.
"""

import os
import signal

# The exit code after Ctrl-C that shells use.
INTERRUPTED = 130


def end_at_interrupt() -> None:
    """End at Ctrl-C until Python's own handling is back; an ignored signal stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))


def raise_at_interrupt() -> None:
    """Restore Python's own handling, once somebody can name what the rank did."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
