"""Workers: processes that each answer for one model after another."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from benchmarks.families.outcome import Kind

# A worker's processes compute one at a time, and three ranks at once for a short while.
MOST = max(1, (os.cpu_count() or 1) // 2)
# Variables of a worker: nothing may be downloaded, and its processes compute on one thread each.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}


@dataclass
class Worker:
    """A worker, started when it is first asked and again after it ended."""

    zoo: Path
    limit: float
    process: "subprocess.Popen[str] | None" = field(default=None, init=False)

    def outcome_of(self, name: str) -> dict[str, Any]:
        """What becomes of a model. Ends the benchmark where the zoo cannot be imported."""
        process = self.process or self._started()
        assert process.stdin is not None and process.stdout is not None
        print(name, file=process.stdin, flush=True)
        line = process.stdout.readline()
        if not line:
            self.process = None
            return {"kind": Kind.FAILED, "reason": f"the worker ended with {process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _started(self) -> "subprocess.Popen[str]":
        words = ["-W", "ignore", "-m", "benchmarks.families.worker", str(self.zoo), str(self.limit)]
        process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENVIRONMENT},
        )
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit("the zoo cannot be imported: its message stands above")
        self.process = process
        return process

    def end(self) -> None:
        """Let the process end."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def outcomes_of(
    names: Iterable[str],
    workers: list[Worker],
    done: Callable[[str, dict[str, Any]], None],
) -> None:
    """Ask the workers until every name has its outcome; `done` is called by one at a time."""
    waiting: SimpleQueue[str] = SimpleQueue()
    for name in names:
        waiting.put(name)
    finished: SimpleQueue[tuple[str, dict[str, Any]] | None] = SimpleQueue()

    def work(worker: Worker) -> None:
        try:
            while True:
                name = waiting.get_nowait()
                finished.put((name, worker.outcome_of(name)))
        except Empty:
            worker.end()
        finally:
            finished.put(None)

    with ThreadPoolExecutor(len(workers)) as threads:
        futures = [threads.submit(work, worker) for worker in workers]
        working = len(workers)
        while working:
            outcome = finished.get()
            if outcome is None:
                working -= 1
            else:
                done(*outcome)
        for future in futures:
            future.result()
