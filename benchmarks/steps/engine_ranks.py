"""One rank of the engine benchmark: pipecut's engine, torch's and no messages at all, in turn.

Run by the launcher as `-m benchmarks.steps.engine_ranks FILE ROUNDS SCHEDULE=PLAN ...`.
Rank 0 writes the seconds of each round.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from pipecut.runtime.pipeline import Pipeline, load_pipeline
from pipecut.runtime.ranks.world import leave_world
from pipecut.runtime.training.data import batches

WARM = 2


class ForTorch(nn.Module):
    """A stage as torch's schedules call it.

    The last stage returns a loss of one element, since torch concatenates results.
    """

    def __init__(self, stage: nn.Module, last: bool) -> None:
        super().__init__()
        self.stage, self.last = stage, last

    def forward(self, x: torch.Tensor, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """What the next stage needs, or the loss."""
        if self.last:
            loss: torch.Tensor = self.stage(x, wanted)[0]
            return loss.view(1)
        result: torch.Tensor = self.stage(x)[0]
        return result


def theirs(pipe: Pipeline, kind: type[Any], batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """A step of torch's schedule over the same modules, parameters and batch."""
    rank, plan = pipe.world.rank, pipe.plan
    stage = PipelineStage(ForTorch(pipe.model.modules[rank], rank == 1), rank, 2, pipe.world.device)
    schedule = kind(stage, plan.microbatches, loss_fn=lambda loss, _: loss.sum(), scale_grads=True)

    def step() -> None:
        if rank == 0:
            schedule.step(batch["x"])
        else:
            schedule.step(target=batch["target"], wanted=batch["target"])

    return step


def alone(pipe: Pipeline, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """Forward and backward of every microbatch of this rank's stage, with no message."""
    plan, module = pipe.plan, pipe.model.modules[pipe.world.rank]
    parts = [
        dict(zip(batch, piece, strict=True))
        for piece in zip(*(t.split(plan.batch.microbatch) for t in batch.values()), strict=True)
    ]

    def step() -> None:
        for part in parts:
            if pipe.world.rank == 0:
                (result,) = module(part["x"])
                torch.autograd.backward([result], [result.detach()])
            else:
                received = part["x"].clone().requires_grad_()
                module(received, part["target"])[0].backward()

    return step


def main() -> None:
    """One rank."""
    file, rounds, *plans = sys.argv[1:]
    paths = dict(plan.split("=", 1) for plan in plans)
    pipes = {schedule: load_pipeline(Path(path), None) for schedule, path in paths.items()}
    first = pipes["1f1b"]
    batch = next(batches(first, None, Path(paths["1f1b"])))
    steps: dict[str, Callable[[], Any]] = {
        name: partial(pipe.step, **batch) for name, pipe in pipes.items()
    }
    steps |= {
        "torch 1f1b": theirs(first, Schedule1F1B, batch),
        "torch gpipe": theirs(pipes["gpipe"], ScheduleGPipe, batch),
        "ideal": alone(first, batch),
    }
    spent: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for number in range(int(rounds) + WARM):
        # What ran before leaves its mark on the caches: shuffled, each follows each other equally
        # often. The seed makes the order the same on both ranks.
        random.Random(number).shuffle(names)
        for name in names:
            dist.barrier()
            begin = time.perf_counter()
            steps[name]()
            seconds = torch.tensor(time.perf_counter() - begin)
            dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
            # Of two ranks the ideal step is m + 1 times what a microbatch takes, of which m ran.
            m = first.plan.microbatches
            spent[name].append(float(seconds) * ((m + 1) / m if name == "ideal" else 1.0))
            for pipe in pipes.values():
                for parameter in pipe.parameters():
                    parameter.grad = None
    if first.world.rank == 0:
        Path(file).write_text(json.dumps({name: times[WARM:] for name, times in spent.items()}))
    for pipe in pipes.values():
        leave_world(pipe.world)


if __name__ == "__main__":
    main()
