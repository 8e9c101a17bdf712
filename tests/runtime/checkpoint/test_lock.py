"""One run at a time holds a folder's lock, and it goes with the run's process."""

import json
import os
import socket
from pathlib import Path

import pytest

from pipecut.errors import CheckpointError
from pipecut.runtime.checkpoint import lock


def test_a_process_may_take_its_own_lock_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "saved"
    handles = [lock.hold(folder), lock.hold(folder)]
    about = json.loads((folder / lock.NAME).read_text())
    assert about == {"machine": socket.gethostname(), "pid": os.getpid()}
    for handle in handles:
        os.close(handle)


def without_locks(*_: object) -> None:
    raise OSError(lock.errno.ENOLCK, "no locks here")


@pytest.mark.parametrize(
    ("about", "is_taken"),
    [
        ('{"machine": "MACHINE", "pid": 1}', True),
        ('{"machine": "MACHINE", "pid": 999999999}', False),
        ('{"machine": "elsewhere", "pid": 1}', False),
        ('{"machine": "MACHINE", "pid": "1"}', False),
        ("", False),
        ("[1]", False),
    ],
)
def test_without_locks_the_process_that_the_file_names_is_looked_for(
    about: str, is_taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock.fcntl, "lockf", without_locks)
    (tmp_path / lock.NAME).write_text(about.replace("MACHINE", socket.gethostname()))
    if is_taken:
        with pytest.raises(CheckpointError, match=r"in use by another run \(process 1 on "):
            lock.hold(tmp_path, patience=0.0)
    else:
        os.close(lock.hold(tmp_path, patience=0.0))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot be written: .*--checkpoints takes another"):
        lock.hold(tmp_path / "file")
