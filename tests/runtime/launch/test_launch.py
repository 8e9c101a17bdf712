"""However a run ends, its launcher says so, and leaves no process, port or folder behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipecut.errors import RankLostError
from pipecut.runtime.health.watchdog import process_state
from pipecut.runtime.launch.launch import launch

PROGRAM = (
    "import sys; from pipecut.runtime.launch.launch import launch; "
    "launch(2, sys.argv[1], sys.argv[2:], stall=5)"
)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, which must be empty afterwards."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    yield folder
    assert wait_until(lambda: not list(folder.iterdir())), list(folder.iterdir())


def wait_until(true: Callable[[], bool], seconds: float = 15) -> bool:
    limit = time.monotonic() + seconds
    while not true():
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


def begin(what: str, file: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, "tests.programs.small_rank", what, str(file)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def pids_of(file: Path) -> list[int]:
    files = [file.with_suffix(f".{rank}") for rank in range(2)]
    assert wait_until(lambda: all(f.exists() and f.read_text() for f in files))
    return [int(pid) for f in files for pid in f.read_text().split()]


def gone(pids: list[int]) -> bool:
    # A process that nobody has waited for yet is a zombie.
    return all(process_state(pid) in (None, "Z", "X") for pid in pids)


@pytest.mark.parametrize("when", ["while ranks start", "once they run"])
def test_no_process_outlives_a_launcher_that_is_killed(
    temporary: Path, tmp_path: Path, when: str
) -> None:
    running = begin("children", tmp_path / "pids")
    if when == "once they run":
        pids = pids_of(tmp_path / "pids")
        assert len(pids) == 6
    else:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        assert wait_until(lambda: len(children.read_text().split()) == 3)
        pids = [int(pid) for pid in children.read_text().split()]
    running.kill()
    running.communicate()
    assert wait_until(lambda: gone(pids))


def test_what_a_lost_rank_started_ends_with_it(temporary: Path, tmp_path: Path) -> None:
    running = begin("children", tmp_path / "pids")
    pids = pids_of(tmp_path / "pids")
    os.kill(pids[3], signal.SIGKILL)
    _, error = running.communicate(timeout=20)
    assert "rank 1 was ended by SIGKILL in step 1" in error
    assert gone(pids)


def test_a_rank_that_does_not_exit_after_its_last_step_is_named(
    temporary: Path, tmp_path: Path
) -> None:
    with pytest.raises(RankLostError, match="rank 1 has stood still for 1 s after its last step"):
        launch(2, "tests.programs.small_rank", ["stops at its end", str(tmp_path / "pids")], 1)


def test_a_rank_that_leaves_early_without_an_error_is_named(
    temporary: Path, tmp_path: Path
) -> None:
    with pytest.raises(RankLostError, match="rank 1 ended by itself, with exit code 0, in step 1"):
        launch(2, "tests.programs.small_rank", ["leaves", str(tmp_path / "pids")], 30)


def test_what_ranks_that_end_well_started_goes_on(temporary: Path, tmp_path: Path) -> None:
    launch(2, "tests.programs.small_rank", ["ends", str(tmp_path / "pids")], 30)


@pytest.mark.parametrize("what, times", [("obeys", 1), ("insists", 2)])
def test_ctrl_c_asks_once_and_then_kills(
    temporary: Path, tmp_path: Path, what: str, times: int
) -> None:
    running = begin(what, tmp_path / "pids")
    pids = pids_of(tmp_path / "pids")
    time.sleep(0.2)
    for _ in range(times):
        running.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, error = running.communicate(timeout=10)
    assert "KeyboardInterrupt" in error and gone(pids)


@pytest.mark.slow
def test_a_run_on_this_machine_listens_on_loopback_alone(
    write_job: Callable[..., Path], slow_cores: str, tmp_path: Path, temporary: Path
) -> None:
    from pipecut.compiler import Options, SizeOverrides, compile

    job = write_job("mlp", "vectors")
    compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2)))
    command = [sys.executable, "-m", "pipecut", "run", str(tmp_path / "plan"), "--steps", "1000"]
    running = subprocess.Popen(
        [*command, "--data", "tests.models.core:slow_vectors", "--device", "cpu"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert "step" in running.stdout.readline()
    of_run = {running.pid, *descendants(running.pid)}
    listed = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    own = [
        line
        for line in listed.splitlines()
        if set(map(int, re.findall(r"pid=(\d+)", line))) & of_run
    ]
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)
    assert running.returncode == 130
    assert own and all(line.split()[3].startswith(("127.0.0.1:", "[::1]:")) for line in own), own


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [p for child in map(int, children) for p in (child, *descendants(child))]
