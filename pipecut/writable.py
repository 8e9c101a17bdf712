"""Whether a path can be written, asked before the first step, so that no run is lost for it."""

import os
import tempfile
from pathlib import Path

from pipecut.errors import UserFileError


def writable_folder(path: Path, option: str) -> None:
    """Make the folder where there is none, and write into it. Raises UserFileError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path, prefix=".pipecut-"):
            pass
    except OSError as error:
        raise _unwritable(path, option, error) from None


def writable_file(path: Path, option: str) -> None:
    """Open the file to write, and leave it as it is; make its folder. Raises UserFileError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666))
        if new:
            path.unlink()
    except OSError as error:
        raise _unwritable(path, option, error) from None


def _unwritable(path: Path, option: str, error: OSError) -> UserFileError:
    reason = error.strerror or str(error)
    return UserFileError(f"{option} {path} cannot be written: {reason}; name another place")
