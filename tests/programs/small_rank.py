"""A rank that needs no torch: it says what it does, as a real one, and then what its argument names.

`python -m tests.programs.small_rank WHAT FILE`. Pids of all that it starts are written to FILE.rank.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipecut.runtime.health.status import State, Status


def main() -> None:
    what, file = sys.argv[1], Path(sys.argv[2])
    rank = int(os.environ["RANK"])
    status = Status(rank)
    pids = [os.getpid()]
    if what == "children":
        pids += [subprocess.Popen(["sleep", "600"], start_new_session=True).pid, double_fork()]
    file.with_suffix(f".{rank}").write_text(" ".join(map(str, pids)))
    status.note(State.ENDED if what == "stops at its end" else State.COMPUTING)
    if what == "stops at its end" and rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "leaves" and rank == 1:
        sys.exit(0)
    if what == "obeys":
        signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    if what == "insists":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if what not in ("stops at its end", "ends"):
        time.sleep(600)
    status.note(State.ENDED)


def double_fork() -> int:
    """A process whose parent is gone, in a session of its own."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        pid = os.fork()
        if pid == 0:
            os.execvp("sleep", ["sleep", "600"])
        os.write(writing, str(pid).encode())
        os._exit(0)
    os.wait()
    return int(os.read(reading, 20))


if __name__ == "__main__":
    main()
