"""Run a command that trains, and kill its ranks at random meanwhile."""

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
    """How the command ended, what it printed, what each killed rank was doing, and pids of ranks that are alive after it."""

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
    """Kill a random rank so many times, each between two delays in seconds after all of them began to train."""
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
            seen |= {one.pid for one in doing}
            time.sleep(random.uniform(*delay))
            rank = random.randrange(ranks)
            now = read_status(_folder(scratch), rank)
            if running.poll() is not None or now is None or now.state is State.ENDED:
                break
            old = {one.pid for one in doing}
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
    """What all ranks do, once they are new ones and began; nothing when the command ended."""
    while running.poll() is None:
        doing = [read_status(_folder(scratch), rank) for rank in range(ranks)]
        begun = [
            one
            for one in doing
            if one is not None and one.state is not State.STARTING and one.pid not in old
        ]
        if len(begun) == ranks:
            return begun
        time.sleep(0.01)
    return []
