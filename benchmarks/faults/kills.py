"""Run a command that trains, and kill its ranks at random while it runs."""

import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from pipecut.runtime.health.status import RankStatus, State, read_status


@dataclass(frozen=True)
class Disturbed:
    """How the command ended and what it printed; what each killed rank was doing.

    `orphans` are pids of ranks that are alive after the command.
    """

    code: int
    output: str
    killed: tuple[str, ...]
    orphans: tuple[int, ...]


def disturbed(
    command: list[str],
    ranks: int,
    kills: int,
    delay: tuple[float, float],
    scratch: Path,
    how: signal.Signals = signal.SIGKILL,
) -> Disturbed:
    """Kill a random rank `kills` times.

    Each time between two delays in seconds after all ranks began to train.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    log = scratch / "output.txt"
    seen: set[int] = set()
    killed: list[str] = []
    with log.open("w") as file:
        running = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, "TMPDIR": str(scratch)}
        )
        old: set[int] = set()
        while len(killed) < kills and (doing := _training(running, scratch, ranks, old)):
            seen |= {status.pid for status in doing}
            time.sleep(random.uniform(*delay))
            rank = random.randrange(ranks)
            now = read_status(_folder(scratch), rank)
            if running.poll() is not None or now is None or now.state is State.ENDED:
                break
            old = {status.pid for status in doing}
            os.kill(now.pid, how)
            killed.append(f"rank {rank} {now}")
        code = running.wait()
    alive = tuple(pid for pid in seen if Path(f"/proc/{pid}").exists())
    return Disturbed(code, log.read_text(), tuple(killed), alive)


def _folder(scratch: Path) -> Path:
    return next(iter(scratch.glob("pipecut-status-*")), scratch)


def _training(
    running: "subprocess.Popen[bytes]", scratch: Path, ranks: int, old: set[int]
) -> list[RankStatus]:
    """What all ranks do, once all are new and train; nothing when the command ended."""
    while running.poll() is None:
        doing = [read_status(_folder(scratch), rank) for rank in range(ranks)]
        begun = [
            status
            for status in doing
            if status is not None and status.state is not State.STARTING and status.pid not in old
        ]
        if len(begun) == ranks:
            return begun
        time.sleep(0.01)
    return []
