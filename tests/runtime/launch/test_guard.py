"""What carries a launch's token is found and ended, and nothing else."""

import os
import subprocess
import sys
import time
from pathlib import Path

from pipecut.runtime.launch import guard

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]


def start(token: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(SLEEP, env={**os.environ, guard.TOKEN: token}, start_new_session=True)


def wait_for(token: str, pid: int) -> None:
    """Until the process shows its new environment."""
    limit = time.monotonic() + 10
    while pid not in guard.processes_of(token) and time.monotonic() < limit:
        time.sleep(0.01)


def test_processes_of_a_launch_end_and_others_stay() -> None:
    ours, others = start("ours"), start("others")
    try:
        wait_for("ours", ours.pid)
        wait_for("others", others.pid)
        assert guard.processes_of("ours") == [ours.pid]
        # A zombie has no environment, so it is not waited for.
        guard.end_all("ours", [])
        assert ours.wait(10) < 0 and others.poll() is None
    finally:
        for process in (ours, others):
            process.kill()
            process.wait()


def test_the_folder_goes_when_the_launcher_does(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    command = [sys.executable, "-I", guard.__file__, "token", str(folder)]
    subprocess.run(command, input=b"done\n", timeout=30, check=True)
    assert not folder.exists()
