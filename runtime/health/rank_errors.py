"""When another rank is gone: errors of gloo and NCCL as one that says so, and an end together with whoever started us."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipecut.errors import DisagreementError, PeerLostError, PipecutError, RunError
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
def naming_errors(here: str) -> Iterator[None]:
    """Errors within as RunErrors that begin with `here`, and PeerLostError where another rank is at fault."""
    try:
        yield
    except PipecutError as error:
        raise type(error)(f"{here}: {error}") from error
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        if any(sign in first for sign in PEER_LOST):
            raise PeerLostError(
                f"{here}: another rank ended or went silent; its own message says why"
            ) from error
        raise RunError(f"{here}: {type(error).__name__}: {first}") from error


def tell(error: PipecutError) -> None:
    """Print an error, in one write, since ranks share the stream.

    Who started the ranks says more of a lost one itself; what all ranks say alike, one of each machine says.
    """
    said_elsewhere = isinstance(error, PeerLostError) and FOLDER in os.environ
    if isinstance(error, DisagreementError):
        said_elsewhere = os.environ.get("LOCAL_RANK", "0") != "0"
    if not said_elsewhere:
        print(f"pipecut: {error}\n", end="", file=sys.stderr, flush=True)


def end_with_parent() -> None:
    """No rank outlives whoever started it, however that ends. Linux alone knows how; elsewhere nothing changes."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    if parent == 1 and "TORCHELASTIC_RUN_ID" in os.environ and not _is_python(parent):
        # torchrun ended before this rank came so far.
        os._exit(PeerLostError.exit_code)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended meanwhile.
        os._exit(PeerLostError.exit_code)


def _is_python(pid: int) -> bool:
    """Whether a process may be a launcher, all of which are Python; also where it cannot be seen."""
    try:
        return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
