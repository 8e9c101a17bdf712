"""Errors that name the rank, and say when another is gone; a rank's end with its parent."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipecut.errors import (
    DisagreementError,
    OtherWayError,
    PeerLostError,
    PipecutError,
    RunError,
)
from pipecut.runtime.health.status import FOLDER

# How gloo and NCCL say that the other side of a transfer is gone.
PEER_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exited",
    "Timed out waiting",
)
# From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1


@contextmanager
def naming_errors(where: str) -> Iterator[None]:
    """Raises the block's errors as RunError, or PeerLostError, that begins with `where`."""
    try:
        yield
    except PipecutError as error:
        raise type(error)(f"{where}: {error}") from error
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        if any(sign in first for sign in PEER_LOST):
            raise PeerLostError(
                f"{where}: another rank ended or went silent; its own message says why"
            ) from error
        raise RunError(f"{where}: {type(error).__name__}: {first}") from error


def print_error(error: PipecutError) -> None:
    """Print an error in one write, since ranks share the stream.

    The launcher itself says more of a lost rank. One rank of each machine prints an error that is
    the same on all ranks.
    """
    printed_elsewhere = isinstance(error, PeerLostError) and FOLDER in os.environ
    if isinstance(error, DisagreementError | OtherWayError):
        printed_elsewhere = os.environ.get("LOCAL_RANK", "0") != "0"
    if not printed_elsewhere:
        print(f"pipecut: {error}\n", end="", file=sys.stderr, flush=True)


def end_with_parent() -> None:
    """Have Linux kill this process when its parent ends; elsewhere nothing changes."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    if parent == 1 and "TORCHELASTIC_RUN_ID" in os.environ and not _is_python(parent):
        # torchrun ended before this rank reached this line.
        os._exit(PeerLostError.exit_code)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent ended meanwhile.
        os._exit(PeerLostError.exit_code)


def _is_python(pid: int) -> bool:
    """Whether a process may be a launcher, which is Python. True where it cannot be read."""
    try:
        return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
