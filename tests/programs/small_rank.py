"""A rank without torch: it reports its status as a real rank, then behaves as it is told to.

`python -m tests.programs.small_rank BEHAVIOUR FILE`. The pids of its processes go to FILE.rank.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipecut.runtime.health.status import State, Status


def main() -> None:
    behaviour, file = sys.argv[1], Path(sys.argv[2])
    rank = int(os.environ["RANK"])
    status = Status(rank)
    pids = [os.getpid()]
    if behaviour == "children":
        pids += [subprocess.Popen(["sleep", "600"], start_new_session=True).pid, double_fork()]
    file.with_suffix(f".{rank}").write_text(" ".join(map(str, pids)))
    status.note(State.ENDED if behaviour == "stops at its end" else State.COMPUTING)
    if behaviour == "stops at its end" and rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    if behaviour == "leaves" and rank == 1:
        sys.exit(0)
    if behaviour == "obeys":
        signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    if behaviour == "insists":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if behaviour not in ("stops at its end", "ends"):
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
