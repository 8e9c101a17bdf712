"""A rank whose code fails says which rank, step, error and line of the user's, and ends at once."""

import builtins
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import RunError
from pipecut.runtime.health.last_words import (
    OTHERS_CODE,
    describe,
    exit_code,
    finished_within,
    users_frame,
)

LAUNCH = (
    "import sys; from pipecut.runtime.launch.launch import launch; "
    "launch(2, 'tests.programs.users_loop', sys.argv[1:])"
)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_the_users_line_is_named_and_a_path_that_says_pipecut_is_not_hidden(tmp_path: Path) -> None:
    file = tmp_path / "pipecut" / "train.py"
    file.parent.mkdir()
    file.write_text("import json\n\ndef train():\n    json.loads('{')\n")
    code = compile_file(file)
    try:
        code["train"]()
        message = ""
    except ValueError as error:
        assert users_frame(error.__traceback__, OTHERS_CODE) == f"{file}:4 in train"
        message = describe(error, error.__traceback__, 3, "between steps 1 and 2")
    assert message.startswith("rank 3 between steps 1 and 2: JSONDecodeError: Expecting property")
    assert message.endswith(f", at {file}:4 in train")


def compile_file(file: Path) -> dict[str, Callable[[], None]]:
    namespace: dict[str, Callable[[], None]] = {}
    exec(builtins.compile(file.read_text(), str(file), "exec"), namespace)
    return namespace


def test_an_error_within_an_action_is_told_with_its_step() -> None:
    error = raised(RunError("rank 1, action 'F 1.2': ValueError: x"))
    message = describe(error, None, 1, "in step 7, action 'F 1.2' (stage 1, microbatch 2)")
    assert message == "rank 1, in step 7, action 'F 1.2': ValueError: x"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "rank 2 was stopped between steps 2 and 3"),
        (
            ValueError("bad\nin many words"),
            "rank 2 between steps 2 and 3: ValueError: bad (PIPECUT_DEBUG=1 shows the traceback)",
        ),
        (
            SystemExit(7),
            "code asked Python to exit with 7; the other ranks cannot go on without it",
        ),
        (torch.OutOfMemoryError("no memory"), "no memory; compile with a larger reserve: in the"),
        (RunError("rank 2: no data"), "rank 2: no data"),
    ],
)
def test_an_error_is_one_line_with_what_to_do(error: BaseException, message: str) -> None:
    assert message in describe(error, None, 2, "between steps 2 and 3")


def test_a_users_cause_of_our_error_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "users.py").write_text("def fail():\n    raise ValueError('bad')\n")
    try:
        compile_file(tmp_path / "users.py")["fail"]()
    except ValueError as cause:
        ours = RunError("rank 0, action 'F 0.0': ValueError: bad")
        ours.__cause__ = cause
        message = describe(ours, None, 0, "in step 1, action 'F 0.0'")
    assert message.endswith(f"ValueError: bad, at {tmp_path / 'users.py'}:2 in fail")


@pytest.mark.parametrize("seconds, finished", [(5.0, True), (0.05, False)])
def test_work_that_does_not_end_is_left(seconds: float, finished: bool) -> None:
    over = threading.Event()
    if finished:
        over.set()
    assert finished_within(seconds, lambda: over.wait() and None) == finished
    over.set()


@pytest.mark.parametrize(
    "error, code",
    [
        (RunError("x"), 4),
        (ValueError("x"), 4),
        (KeyboardInterrupt(), 130),
        (SystemExit(0), 4),
        (SystemExit(7), 7),
        (SystemExit("text"), 4),
        (MemoryError(), 4),
    ],
)
def test_every_error_has_an_exit_code_other_than_0(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


@pytest.fixture
def plan(write_job: Callable[..., Path], slow_cores: str, tmp_path: Path) -> Path:
    compile(
        write_job("mlp", "vectors"), slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2))
    )
    return tmp_path / "plan"


def test_a_users_own_loop_that_fails_ends_at_once_and_is_named(plan: Path) -> None:
    begin = time.monotonic()
    command = [sys.executable, "-c", LAUNCH, str(plan), "raise"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (
        "pipecut: rank 1 between steps 2 and 3: OutOfMemoryError: CUDA out of memory" in run.stderr
    )
    assert "users_loop.py:34 in fail; compile with a larger reserve" in run.stderr
    assert "rank 1 ended with exit code 4 between steps 2 and 3" in run.stderr
    # The launcher's own program shows the one traceback.
    assert run.stderr.count("Traceback") == 1
    assert time.monotonic() - begin < 60


@pytest.mark.slow
@pytest.mark.parametrize(
    "what, said",
    [
        ("file", r"pipecut: rank 1 between steps 2 and 3: FileNotFoundError: \[Errno 2\]"),
        # Whichever process ends first.
        ("exit", "rank 1 ended (after 2 steps|with exit code 3 after its last step)"),
        ("thread", "thread 'prefetch' ended and the rank goes on: rank 1 while it was starting"),
    ],
)
def test_whatever_ends_it_no_rank_is_left_waiting(plan: Path, what: str, said: str) -> None:
    command = [sys.executable, "-c", LAUNCH, str(plan), what]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert re.search(said, run.stderr), run.stderr
    assert (run.returncode == 0) == (what == "thread")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--steps", "abc"], "pipecut: Invalid value for '--steps'"),
        (["--steps", "1"], "pipecut: PIPECUT_TIMEOUT=abc in the environment: must be a number"),
    ],
)
def test_a_rank_that_cannot_begin_says_so_without_a_traceback(
    plan: Path, arguments: list[str], said: str
) -> None:
    command = [sys.executable, "-m", "pipecut.runtime", str(plan), *arguments]
    environment = {**os.environ, "PIPECUT_TIMEOUT": "abc"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert run.returncode == 2 and said in run.stderr and "Traceback" not in run.stderr
