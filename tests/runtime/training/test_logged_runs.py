"""The log of real runs that are stopped and continued: every step once, none missing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import Options, SizeOverrides, compile

pytestmark = pytest.mark.slow
STEPS = 30


@pytest.fixture
def plan(write_job: Any, slow_cores: str, tmp_path: Path) -> Path:
    extra = 'eval: {data: "tests.models.checkpoint:shuffled", every: 10}\n'
    job = write_job("mlp", "vectors", extra=extra)
    compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2)))
    return tmp_path / "plan"


def run(folder: Path, *more: str) -> "subprocess.Popen[str]":
    options = ["--data", "tests.models.checkpoint:slow", "--steps", str(STEPS), "--log", "log"]
    options += ["--checkpoint-every", "4", "--checkpoints", "saved", *more]
    command = [sys.executable, "-m", "pipecut", "run", "plan", *options]
    root = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)  # type: ignore[call-overload,no-any-return]


def lines(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of the log."""
    file = folder / "log" / "steps.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def reaches(folder: Path, step: int, running: "subprocess.Popen[str]") -> None:
    while running.poll() is None and not any(line["step"] >= step for line in lines(folder)):
        time.sleep(0.05)
    assert running.poll() is None, running.communicate()


def test_every_step_is_logged_once_where_a_run_is_stopped_and_resumed(
    plan: Path, tmp_path: Path
) -> None:
    running = run(tmp_path)
    reaches(tmp_path, 10, running)
    running.send_signal(signal.SIGINT)
    output = running.communicate()[0]
    assert running.returncode == 130 and "Traceback" not in output, output
    assert lines(tmp_path)[-1]["step"] < STEPS
    resumed = run(tmp_path, "--resume")
    output = resumed.communicate()[0]
    assert resumed.returncode == 0, output
    logged = lines(tmp_path)
    assert [line["step"] for line in logged if "loss" in line] == list(range(1, STEPS + 1))
    assert [line["step"] for line in logged if "eval_loss" in line] == [10, 20, 30]
    # As a run that nothing ended.
    (tmp_path / "log").rename(tmp_path / "first.log")
    (tmp_path / "saved").rename(tmp_path / "first.saved")
    whole = run(tmp_path)
    assert whole.communicate() and whole.returncode == 0
    keys = ("step", "loss", "eval_loss", "lr")
    assert [[line.get(key) for key in keys] for line in logged] == [
        [line.get(key) for key in keys] for line in lines(tmp_path)
    ]
