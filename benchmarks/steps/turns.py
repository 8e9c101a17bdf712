"""A rank that runs several plans in turn, step by step, so that all see the machine equally fast.

Run by the launcher as `-m benchmarks.steps.turns FILE ROUNDS PLAN ...`. A plan as `record:PLAN`
runs with its recorder on. Rank 0 writes the seconds of each round's steps.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch.distributed as dist

from pipecut.runtime.engine.recorder import Recorder
from pipecut.runtime.launch.launch import launch
from pipecut.runtime.pipeline import Pipeline, load_pipeline
from pipecut.runtime.ranks.world import leave_world
from pipecut.runtime.training.data import batches

WARM = 2


def in_turn(plans: list[str], rounds: int, scratch: Path) -> list[list[float]]:
    """Seconds of forward and backward by round, of each plan."""
    file = scratch / "turns.json"
    launch(2, "benchmarks.steps.turns", [str(file), str(rounds), *plans])
    rounds_of_seconds: list[list[float]] = json.loads(file.read_text())
    return rounds_of_seconds


def main() -> None:
    """One rank."""
    file, rounds, *plans = sys.argv[1:]
    pipes = [_load(plan) for plan in plans]
    sources = [
        batches(pipe, None, Path(plan.removeprefix("record:")))
        for pipe, plan in zip(pipes, plans, strict=True)
    ]
    by_round = []
    for number in range(int(rounds) + WARM):
        row = []
        # Each comes first, second and so on equally often.
        turn = number % len(pipes)
        for at in [*range(turn, len(pipes)), *range(turn)]:
            batch = next(sources[at])
            dist.barrier()
            begin = time.perf_counter()
            pipes[at].step(**batch)
            row.append((at, time.perf_counter() - begin))
            recorder = pipes[at].engine.recorder
            if recorder is not None:
                recorder.take()
            for parameter in pipes[at].parameters():
                parameter.grad = None
        by_round.append([seconds for _, seconds in sorted(row)])
    if os.environ["RANK"] == "0":
        Path(file).write_text(json.dumps(by_round[WARM:]))
    for pipe in pipes:
        leave_world(pipe.world)


def _load(plan: str) -> Pipeline:
    pipe = load_pipeline(Path(plan.removeprefix("record:")), None)
    if plan.startswith("record:"):
        pipe.engine.recorder = Recorder(pipe.world.device)
    return pipe


if __name__ == "__main__":
    main()
