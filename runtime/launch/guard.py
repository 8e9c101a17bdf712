"""A small process beside the ranks that ends whatever they leave once their launcher is gone.

Started as `python -I guard.py TOKEN FOLDER`, in a session of its own. Its standard input is a pipe from the
launcher: a line `PID` for each rank, a line `done` once all ranks ended well. When the pipe closes before that
(the launcher was killed, or a rank failed), every process whose environment has PIPECUT_LAUNCH=TOKEN is killed:
ranks, and whatever they started, in whichever session. The folder is removed in any case.

It imports nothing of pipecut or torch, so that it runs before the first rank does.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

# In the environment of every rank, and so of all that ranks start.
TOKEN = "PIPECUT_LAUNCH"
# Processes may be starting others meanwhile, so look again; but not for ever.
ROUNDS = 100


def processes_of(token: str) -> list[int]:
    """Pids of processes that carry the token, other than this one. Linux alone knows; elsewhere none."""
    entry = f"{TOKEN}={token}".encode()
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
    return [pid for pid in pids if pid != os.getpid()]


def end_all(token: str, ranks: list[int]) -> None:
    """Kill the ranks' process groups, and all that carry the token, until none is left."""
    for pid in ranks:
        # A rank leads its group. One that is gone has left its number to nobody while its group lives.
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
    for _ in range(ROUNDS):
        pids = processes_of(token)
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def main() -> None:
    """Wait for the launcher's end."""
    token, folder = sys.argv[1:]
    lines = [line.strip() for line in sys.stdin]
    if "done" not in lines:
        end_all(token, [int(line) for line in lines if line.isdigit()])
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
