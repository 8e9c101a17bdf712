"""The training loop of `pipecut run`: batches in, losses and seconds out, checkpoints between."""

import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from pipecut.errors import PipecutError, RunError
from pipecut.runtime.allocations import Allocations
from pipecut.runtime.checkpoint import latest, refuse_earlier
from pipecut.runtime.optimizer import make_optimizer
from pipecut.runtime.pipeline import Pipeline
from pipecut.runtime.recorder import Measured
from pipecut.runtime.status import State
from pipecut.runtime.userfunction import find_function


@dataclass(frozen=True)
class Wishes:
    """Steps in all, learning rate, gradient norm to clip to (0: none); a folder for checkpoints, how often, how many to keep.

    Who resumes needs a checkpoint; who was restarted takes one where there is one.
    """

    steps: int
    rate: float
    clip: float
    folder: Path
    every: int
    keep: int
    resume: bool
    restarted: bool = False


@dataclass
class Training:
    """A training under way: seconds of each finished step, of its forward and backward alone, and what a recorder measured."""

    pipe: Pipeline
    wishes: Wishes
    begun: int = 0
    times: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    measured: Measured = field(default_factory=Measured)

    @property
    def loud(self) -> bool:
        """Rank 0 reports."""
        return self.pipe.world.rank == 0

    def run(self, data: str | None, plan: Path) -> None:
        """Train from the first step, or from the last checkpoint, to the last step."""
        pipe, wishes = self.pipe, self.wishes
        optimizer = make_optimizer(pipe.plan.optimizer, pipe.parameters(), wishes.rate)
        if wishes.every and not wishes.resume and not wishes.restarted:
            refuse_earlier(wishes.folder)
        if wishes.resume or (wishes.restarted and latest(wishes.folder) is not None):
            self.begun = pipe.restore(wishes.folder, optimizer)
            if self.loud:
                print(f"going on after step {self.begun}, from {wishes.folder}", flush=True)
        pipe.world.status.step = self.begun + 1
        pipe.world.status.note(State.BETWEEN)
        source = batches(pipe, data, plan, self.begun)
        for step in range(self.begun, wishes.steps):
            self._step(step, next(source), optimizer)
            if wishes.every and (step + 1) % wishes.every == 0:
                pipe.save(wishes.folder, optimizer, step=step + 1, keep=wishes.keep, wait=False)
        pipe.finish_saving()
        self._sum_up()

    def _step(self, step: int, batch: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
        pipe, recorder = self.pipe, self.pipe.engine.recorder
        # The second step: optimizer states are there, and it is not among those that are timed.
        second = recorder is not None and len(self.times) == 1
        watched = watch_memory(pipe, optimizer, self.measured) if second else nullcontext()
        begin = time.perf_counter()
        with watched:
            loss = pipe.step(**batch)
        if pipe.world.device.type == "cuda":
            torch.cuda.synchronize()
        self.passes.append(time.perf_counter() - begin)
        if recorder is not None:
            self.measured.steps.append(recorder.take())
        if self.wishes.clip:
            pipe.clip_grad_norm_(self.wishes.clip)
        optimizer.step()
        optimizer.zero_grad()
        self.losses.append(float(loss))
        self.times.append(time.perf_counter() - begin)
        steps = self.wishes.steps
        if self.loud and (step % max(1, steps // 20) == 0 or step == steps - 1):
            print(f"step {step + 1:5d}/{steps}  loss {self.losses[-1]:8.4f}  {self._speed(batch)}", flush=True)

    def _speed(self, batch: dict[str, torch.Tensor]) -> str:
        taken = self.times[-1]
        # Integers of one dimension are labels of samples, no tokens.
        count = next((t.numel() for t in batch.values() if not t.is_floating_point() and t.dim() > 1), 0)
        size = self.pipe.plan.batch.global_size
        return f"{taken * 1e3:8.1f} ms  " + (f"{count / taken:9,.0f} tokens/s" if count else f"{size / taken:9.1f} samples/s")

    def _sum_up(self) -> None:
        if not self.loud or not self.times:
            return
        # The first steps warm up.
        warm = min(3, len(self.times) - 1)
        forward_backward, whole = median(self.passes[warm:]) * 1e3, median(self.times[warm:]) * 1e3
        self.measured.step_seconds = forward_backward / 1e3
        predicted = self.pipe.plan.prediction.step_seconds * 1e3
        print(f"loss {self.losses[0]:.4f} before, {self.losses[-1]:.4f} after {self.wishes.steps} steps")
        print(
            f"forward and backward of a step: predicted {predicted:.1f} ms, measured {forward_backward:.1f} ms; "
            f"with the optimizer {whole:.1f} ms (medians)",
            flush=True,
        )


def batches(pipe: Pipeline, data: str | None, where: Path, begun: int = 0) -> Iterator[dict[str, torch.Tensor]]:
    """Global batches after so many: of the user's iterable again and again, or the job's example inputs."""
    model = pipe.plan.model
    if data is None:
        inputs = find_function(model.inputs, map(Path, model.folders), str(where))
        index = begun
        while True:
            # Every rank must see the same batch, and what the model draws is not to depend on it.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(index)
                batch = inputs(pipe.plan.batch.global_size)
            index += 1
            yield batch
    source = _again_and_again(pipe, data, model.folders)
    for _ in range(begun):
        next(source)
    yield from source


def _again_and_again(pipe: Pipeline, data: str, folders: list[str]) -> Iterator[dict[str, torch.Tensor]]:
    function = find_function(data, map(Path, folders), "--data")
    here = f"rank {pipe.world.rank}: --data {data}"
    while True:
        empty = True
        try:
            source: Iterable[Any] = function()
            for batch in source:
                empty = False
                if not isinstance(batch, dict):
                    raise RunError(f"{here} gave a {type(batch).__name__}; it must give dictionaries of tensors")
                yield batch
        except PipecutError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{frame.filename}:{frame.lineno}"
            raise RunError(f"{here} failed at {place}: {type(error).__name__}: {error}") from error
        if empty:
            raise RunError(f"{here} gave no batch")


@contextmanager
def watch_memory(pipe: Pipeline, optimizer: torch.optim.Optimizer, measured: Measured) -> Iterator[None]:
    """Note the bytes at the peak: the GPU's own count, or on a CPU that of all that operators allocate."""
    if pipe.world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(pipe.world.device)
        yield
        measured.peak_bytes = torch.cuda.max_memory_allocated(pipe.world.device)
        return
    states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    modules = [parameter for module in pipe.modules.values() for parameter in module.parameters()]
    counted = Allocations([*modules, *pipe.parameters(), *(buffer for _, buffer in pipe.named_buffers()), *states])
    with counted:
        yield
    measured.peak_bytes = counted.peak
