"""One run at a time writes into a folder of checkpoints: its first rank there holds a lock.

The system lets go of it when the process ends, however that is, so none is left behind. Where a
file system has no locks, the machine and the process that the file names are looked for instead.
"""

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from pipecut.errors import CheckpointError

NAME = ".lock"
# A run that was just ended may need so many seconds to let go.
PATIENCE = 5.0
TAKEN = (errno.EAGAIN, errno.EACCES)


def hold(folder: Path, patience: float = PATIENCE) -> int:
    """Take the lock. Returns the open file, to be closed to let go. Raises CheckpointError."""
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror}; --checkpoints takes another folder"
        ) from None
    begun = time.monotonic()
    while not _locked(handle):
        if time.monotonic() - begun > patience:
            holder = _holder(handle)
            os.close(handle)
            raise CheckpointError(
                f"{folder} is in use by another run{holder}; end that one, or give --checkpoints "
                "another folder"
            )
        time.sleep(0.1)
    about = {"machine": socket.gethostname(), "pid": os.getpid()}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(about).encode(), 0)
    return handle


def refuse_locked(folder: Path) -> None:
    """Raise CheckpointError where another run writes into the folder."""
    os.close(hold(folder))


def _locked(handle: int) -> bool:
    """Whether this process has the lock now."""
    try:
        # By process, unlike flock: a child of a user's data loader does not hold it on.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            return False
        return not _alive(_about(handle))
    return True


def _about(handle: int) -> dict[str, object]:
    try:
        about = json.loads(os.pread(handle, 1000, 0))
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def _alive(about: dict[str, object]) -> bool:
    """Whether the process named is another one of this machine; those of others are not known."""
    pid = about.get("pid")
    if about.get("machine") != socket.gethostname() or not isinstance(pid, int):
        return False
    return pid != os.getpid() and Path(f"/proc/{pid}").exists()


def _holder(handle: int) -> str:
    about = _about(handle)
    return (
        f" (process {about['pid']} on {about['machine']})"
        if {"pid", "machine"} <= about.keys()
        else ""
    )
