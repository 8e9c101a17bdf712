"""Whether a path can be written, asked before the first step, so that no run is lost for it."""

import os
import re
import tempfile
from pathlib import Path

from pipecut.errors import UserFileError

# A plan's files are in its folder, or in one within it.
DEPTH = 2


def writable_folder(path: Path, option: str) -> None:
    """Make the folder where there is none, and write into it. Raises UserFileError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path, prefix=".pipecut-"):
            pass
    except OSError as error:
        raise _unwritable(path, option, error) from None


def writable_file(path: Path, option: str) -> None:
    """Open the file to write, and leave it as it is; make its folder.

    Raises UserFileError, for a file that a plan is made of, too.
    """
    _refuse_part_of_a_plan(path, option)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666))
        if new:
            path.unlink()
    except OSError as error:
        raise _unwritable(path, option, error) from None


def _refuse_part_of_a_plan(path: Path, option: str) -> None:
    """Raises UserFileError where the file is one of those that a plan folder lists."""
    for folder in tuple(path.resolve().parents)[:DEPTH]:
        manifest = folder / "plan.yaml"
        if not manifest.is_file():
            continue
        name = path.resolve().relative_to(folder).as_posix()
        listed = rf"^  {re.escape(name)}: [0-9a-f]{{64}}$"
        text = manifest.read_text(encoding="utf-8", errors="replace")
        if path.resolve() == manifest or re.search(listed, text, re.MULTILINE):
            raise UserFileError(
                f"{option} {path} is a file of the plan {folder}, which would be lost; name "
                "another place"
            )


def _unwritable(path: Path, option: str, error: OSError) -> UserFileError:
    reason = error.strerror or str(error)
    return UserFileError(f"{option} {path} cannot be written: {reason}; name another place")
