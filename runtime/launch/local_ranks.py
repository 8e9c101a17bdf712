"""The processes of a run on this machine: how they are started, watched and ended."""

import contextlib
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from pipecut.runtime.launch import guard

# Seconds that ranks have to end by themselves once one is lost, and between two looks at them.
PATIENCE, LOOK = 1.0, 0.05


@dataclass
class LocalRanks:
    """One process per rank of this machine, and the guard that ends them when this process is gone.

    A context: after it no rank runs, nor anything that a rank started, unless all ended well.
    `folder` is private to the run, and is removed at its end even when this process is killed.
    """

    folder: Path = field(init=False)
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    # Exit code (negative: the signal) of each rank that ended, in the order that they ended.
    ended: dict[int, int] = field(default_factory=dict)

    def __enter__(self) -> "LocalRanks":
        self.folder = Path(tempfile.mkdtemp(prefix="pipecut-status-"))
        self.token = secrets.token_hex(16)
        program = [sys.executable, "-I", guard.__file__, self.token, str(self.folder)]
        self.guard = subprocess.Popen(program, stdin=subprocess.PIPE, start_new_session=True)
        return self

    def start(self, command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> None:
        """Start a rank per environment.

        Each has a session of its own, so that a terminal's Ctrl-C reaches only this process.
        """
        for environment in environments:
            process = subprocess.Popen(
                command,
                env={**environment, guard.TOKEN: self.token},
                start_new_session=True,
            )
            self.processes.append(process)
            self._write_to_guard(str(process.pid))

    def _write_to_guard(self, line: str) -> None:
        assert self.guard.stdin is not None
        # Without a guard the run goes on: ranks end with this process by themselves, too.
        with contextlib.suppress(OSError):
            self.guard.stdin.write(f"{line}\n".encode())
            self.guard.stdin.flush()

    def look(self, seconds: float = LOOK) -> list[int]:
        """Wait a moment; returns the ranks that ended meanwhile."""
        time.sleep(seconds)
        new = [
            rank
            for rank, process in enumerate(self.processes)
            if rank not in self.ended and process.poll() is not None
        ]
        self.ended.update({rank: self.processes[rank].returncode for rank in new})
        return new

    @property
    def alive(self) -> list[int]:
        """Ranks that have not ended."""
        return [rank for rank in range(len(self.processes)) if rank not in self.ended]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to every rank that has not ended."""
        for rank in self.alive:
            with contextlib.suppress(OSError):
                self.processes[rank].send_signal(number)

    def end(self, patience: float = PATIENCE) -> None:
        """Give ranks so many seconds to end with a message of their own, then kill them."""
        limit = time.monotonic() + patience
        while self.alive and time.monotonic() < limit:
            self.look()
        self.send(signal.SIGKILL)
        while self.alive:
            self.look()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end(0.0)
        if self.processes and not any(self.ended.values()):
            self._write_to_guard("done")
        assert self.guard.stdin is not None
        with contextlib.suppress(OSError):
            self.guard.stdin.close()
        self.guard.wait()
        # The guard removes it, too, unless it was killed.
        shutil.rmtree(self.folder, ignore_errors=True)
