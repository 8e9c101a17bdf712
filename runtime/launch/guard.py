"""A small process beside the ranks that ends whatever they leave once their launcher is gone.

Started as `python -I guard.py TOKEN FOLDER`, in a session of its own. Its standard input is a pipe
from the launcher: a line `PID` for each rank, a line `done` once all ranks ended well. Where the
pipe closes before that (the launcher was killed, or a rank failed), every process whose environment
has PIPECUT_LAUNCH=TOKEN is killed: ranks, and whatever they started, in any session. The folder is
removed in any case.

Imports nothing of pipecut or torch, so that it runs before the first rank does.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

# The variable with the token, in the environment of ranks and of all that they start.
TOKEN = "PIPECUT_LAUNCH"
# Looks at the processes, since one may start another meanwhile; 0.05 s apart, so 5 s at most.
ROUNDS = 100


def processes_of(token: str) -> list[int]:
    """Pids of other processes whose environment has the token; only Linux can list them."""
    entry = f"{TOKEN}={token}".encode()
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
    return [pid for pid in pids if pid != os.getpid()]


def end_all(token: str, ranks: list[int]) -> None:
    """Kill the ranks' process groups, and all processes with the token, until none is left."""
    for pid in ranks:
        # A rank leads its group: while the group lives, no other process gets its number.
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
    """Wait until the launcher ends, then clean up."""
    token, folder = sys.argv[1:]
    lines = [line.strip() for line in sys.stdin]
    if "done" not in lines:
        end_all(token, [int(line) for line in lines if line.isdigit()])
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
