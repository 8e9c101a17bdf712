"""Ctrl-C ends quietly while imports run, and raises afterwards; a command ends with one line."""

import subprocess
import sys

import pytest

INTERRUPT = """
import os, signal
from pipecut.runtime.health.interrupt import end_at_interrupt, raise_at_interrupt
{before}
end_at_interrupt()
{between}
os.kill(os.getpid(), signal.SIGINT)
print("went on")
"""
IGNORE = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
SIGNAL = """
import hashlib, os, signal, threading
from pipecut import end_at_signal
end_at_signal.PATIENCE = 0.1
end_at_signal.listen()
try:
    {work}
except end_at_signal.AskedToEnd as asked:
    print("removed what it began")
    end_at_signal.say_stopped()
    raise SystemExit(asked.exit_code)
"""
KILL = "threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start(); "
# Native code that looks at no signal for minutes.
NATIVE = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"


def run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(
    ("before", "between", "code", "output", "error"),
    [
        ("", "", 130, "", ""),
        ("", "raise_at_interrupt()", -2, "", "KeyboardInterrupt"),
        (IGNORE, "", 0, "went on\n", ""),
        (IGNORE, "raise_at_interrupt()", 0, "went on\n", ""),
    ],
)
def test_an_interrupt_of_imports_is_quiet(
    before: str, between: str, code: int, output: str, error: str
) -> None:
    ended = run(INTERRUPT.format(before=before, between=between))
    assert (ended.returncode, ended.stdout) == (code, output)
    assert error in ended.stderr and bool(ended.stderr) == bool(error)


@pytest.mark.parametrize(
    ("work", "output"),
    [(KILL + "threading.Event().wait()", "removed what it began\n"), (KILL + NATIVE, "")],
)
def test_a_command_ends_with_one_line_whatever_it_does(work: str, output: str) -> None:
    ended = run(SIGNAL.format(work=work))
    assert (ended.returncode, ended.stdout) == (143, output)
    assert ended.stderr == "pipecut: stopped\n"
