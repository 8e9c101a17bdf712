"""The training loop of `pipecut run`: batches in, losses and seconds out, checkpoints between."""

import math
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from pipecut.device.memory import watch_peak
from pipecut.device.types import type_of
from pipecut.device.work import synchronize
from pipecut.errors import CheckpointError, DivergedError, PeerLostError, PipecutError, RunError
from pipecut.model.functions import find_function
from pipecut.model.optimizer import make_optimizer
from pipecut.runtime.batches.check_tensors import check_tensors
from pipecut.runtime.checkpoint.folder import home_of, last_finite, refuse_earlier
from pipecut.runtime.checkpoint.rank_tensors import not_finite
from pipecut.runtime.checkpoint.restoring import find_checkpoint
from pipecut.runtime.checkpoint.stopping import Stopping
from pipecut.runtime.engine.recorder import Measured
from pipecut.runtime.health.status import State
from pipecut.runtime.observe.allocations import Allocations
from pipecut.runtime.pipeline import Pipeline

# The learning rate where none is given, and the first steps, which warm up.
RATE, WARM = 1e-3, 3
# Steps whose seconds are kept for the medians.
TIMED = 1000
# float16 leaves out a step whose gradients overflow; so many in a row are no accident.
OVERFLOWS = 20
# Where an iterable ends.
ENDED = object()


@dataclass(frozen=True)
class TrainingOptions:
    """Steps in all; a folder for checkpoints, how often, how many to keep.

    Learning rate and gradient norm to clip to (0: none) are None where they are not given: then those
    of the checkpoint go on. Who resumes needs a checkpoint; who was restarted takes one where there
    is one.
    """

    steps: int
    rate: float | None
    clip: float | None
    folder: Path
    every: int
    keep: int
    resume: bool
    restarted: bool = False


@dataclass
class Training:
    """A training under way: steps before it and of it, seconds of the last ones, of forward and
    backward alone, the first and the last loss, and what a recorder measured."""

    pipe: Pipeline
    wishes: TrainingOptions
    begun: int = 0
    done: int = 0
    clip: float = 0.0
    overflows: int = 0
    stopped: bool = False
    home: Path = Path()
    times: deque[float] = field(default_factory=lambda: deque(maxlen=TIMED))
    passes: deque[float] = field(default_factory=lambda: deque(maxlen=TIMED))
    losses: list[float] = field(default_factory=list)
    measured: Measured = field(default_factory=Measured)

    @property
    def loud(self) -> bool:
        """Rank 0 reports."""
        return self.pipe.world.rank == 0

    def run(self, data: str | None, plan: Path, stopping: Stopping | None = None) -> None:
        """Train from the first step, or from the last checkpoint, to the last or until stopped."""
        pipe, wishes = self.pipe, self.wishes
        first = torch.get_rng_state()
        optimizer = self._begin(data)
        stopping = stopping or Stopping(pipe.world.rank, pipe.world.size)
        pipe.world.status.step = self.begun + 1
        pipe.world.status.note(State.BETWEEN)
        source = batches_again(pipe, data, plan, self.begun, first)
        for step in range(self.begun, wishes.steps):
            self._step(step, next(source), optimizer)
            pipe.saving.raise_failed()
            self.stopped = stopping.after(step + 1) and step + 1 < wishes.steps
            if wishes.every and ((step + 1) % wishes.every == 0 or self.stopped):
                pipe.save(self.home, optimizer, step=step + 1, keep=wishes.keep, wait=False)
            if self.stopped:
                break
        pipe.finish_saving()
        self._check_parameters()
        if not self.stopped:
            self._sum_up()

    def _check_parameters(self) -> None:
        """The last step's gradients may have been no numbers though its loss was one. Raises DivergedError."""
        named = (
            {f"parameter/{name}": p.detach() for name, p in self.pipe.named_parameters()}
            if self.done
            else {}
        )
        wrong = not_finite(named)
        if wrong is not None:
            raise DivergedError(
                f"rank {self.pipe.world.rank}: after step {self.begun + self.done} {wrong.replace('/', ' ', 1)} has values that "
                "are no finite numbers, though the loss was one: a gradient of that step was none. Nothing of it is saved; look "
                "at the data of that step, and at operators whose derivative has no bound, such as sqrt at 0"
            )

    def _begin(self, data: str | None) -> torch.optim.Optimizer:
        """The optimizer, at the first step or where the last checkpoint left it."""
        pipe, wishes = self.pipe, self.wishes
        rate = RATE if wishes.rate is None else wishes.rate
        optimizer = make_optimizer(pipe.plan.optimizer, pipe.parameters(), rate)
        saving, self.clip = pipe.saving, wishes.clip or 0.0
        saving.recipe = {"kind": pipe.plan.optimizer, "data": data}
        saving.recipe |= {"clip": wishes.clip} if wishes.clip is not None else {}
        again = wishes.restarted and find_checkpoint(pipe.world, wishes.folder) is not None
        if wishes.every and not (wishes.resume or wishes.restarted):
            refuse_earlier(wishes.folder)
        self.home = home_of(wishes.folder)
        if wishes.every:
            saving.enter(self.home)
        if wishes.resume or again:
            self._go_on(optimizer)
        elif pipe.model.values_missing:
            raise CheckpointError(
                f"rank {pipe.world.rank}: {wishes.folder} has checkpoints, but none that all ranks "
                "see; move them elsewhere to begin anew"
            )
        if wishes.every:
            saving.set_aside(self.home, self.begun)
        saving.recipe["clip"] = self.clip
        return optimizer

    def _go_on(self, optimizer: torch.optim.Optimizer) -> None:
        pipe, wishes = self.pipe, self.wishes
        self.begun = pipe.restore(wishes.folder, optimizer)
        before = float(optimizer.param_groups[0]["lr"])
        for group in optimizer.param_groups if wishes.rate is not None else ():
            group["lr"] = wishes.rate
        if wishes.clip is None:
            self.clip = float(pipe.saving.recipe.get("clip", 0.0))
        if not self.loud:
            return
        rate = float(optimizer.param_groups[0]["lr"])
        changed = f" as given, not {before:g}" if rate != before else ""
        clipped = f", gradients clipped to {self.clip:g}" if self.clip else ""
        print(
            f"going on after step {self.begun}, from {wishes.folder}, with a learning rate of {rate:g}{changed}{clipped}",
            flush=True,
        )
        if self.begun >= wishes.steps:
            print(f"nothing to do: --steps {wishes.steps} counts the steps before, too", flush=True)

    def _step(
        self, step: int, batch: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        pipe, recorder = self.pipe, self.pipe.engine.recorder
        # The second step: optimizer states are there, and it is not among those that are timed.
        second = recorder is not None and self.done == 1
        watched = watch_memory(pipe, optimizer, self.measured) if second else nullcontext()
        begin = time.perf_counter()
        with watched:
            loss = pipe.step(**batch)
        synchronize(pipe.world.device)
        passed = time.perf_counter() - begin
        if recorder is not None:
            self.measured.add(recorder.take())
        value = float(loss)
        self._check_finite(step, value)
        if self.clip:
            pipe.clip_grad_norm_(self.clip)
        optimizer.step()
        optimizer.zero_grad()
        self._note(step, value, passed, time.perf_counter() - begin, batch)

    def _note(
        self, step: int, loss: float, passed: float, taken: float, batch: dict[str, torch.Tensor]
    ) -> None:
        self.done += 1
        if self.done <= WARM + 1:
            # The first steps warm up; where there are no others, the last of them has to do.
            self.passes.clear()
            self.times.clear()
        self.passes.append(passed)
        self.times.append(taken)
        self.losses = [*self.losses[:1], loss]
        steps = self.wishes.steps
        if self.loud and (step % max(1, steps // 20) == 0 or step == steps - 1):
            print(f"step {step + 1:5d}/{steps}  loss {loss:8.4f}  {self._speed(batch)}", flush=True)

    def _check_finite(self, step: int, loss: float) -> None:
        """Stop before the optimizer makes every parameter what the loss is. Raises DivergedError."""
        if math.isfinite(loss):
            self.overflows = 0
            return
        self.overflows += 1
        if self.pipe.scale.used and self.overflows < OVERFLOWS:
            if self.loud and self.overflows == 1:
                print(f"step {step + 1}: the loss is {loss}; the step is left out", flush=True)
            return
        self.pipe.finish_saving()
        if not self.loud:
            raise PeerLostError(
                f"rank {self.pipe.world.rank}: stopped, as rank 0 did, which says why"
            )
        last = last_finite(self.home) if self.wishes.every else None
        kept = f"--resume goes on from {last}" if last is not None else "no checkpoint was written"
        raise DivergedError(
            f"step {step + 1}: the loss is {loss}; stopped before the optimizer's step. {kept}; try "
            "a smaller --lr, or --clip 1, and look at the data of this step"
        )

    def _speed(self, batch: dict[str, torch.Tensor]) -> str:
        taken = self.times[-1]
        # Integers of one dimension are labels of samples, no tokens.
        count = next(
            (t.numel() for t in batch.values() if not t.is_floating_point() and t.dim() > 1), 0
        )
        size = self.pipe.plan.batch.global_size
        return f"{taken * 1e3:8.1f} ms  " + (
            f"{count / taken:9,.0f} tokens/s" if count else f"{size / taken:9.1f} samples/s"
        )

    def _sum_up(self) -> None:
        if not self.loud or not self.times:
            return
        forward_backward, whole = median(self.passes) * 1e3, median(self.times) * 1e3
        self.measured.step_seconds = forward_backward / 1e3
        predicted = self.pipe.plan.prediction.step_seconds * 1e3
        print(
            f"loss {self.losses[0]:.4f} before, {self.losses[-1]:.4f} after {self.wishes.steps} steps"
        )
        print(
            f"forward and backward of a step: predicted {predicted:.1f} ms, measured {forward_backward:.1f} ms; "
            f"with the optimizer {whole:.1f} ms (medians)",
            flush=True,
        )


def batches(
    pipe: Pipeline, data: str | None, where: Path, begun: int = 0
) -> Iterator[dict[str, torch.Tensor]]:
    """Global batches after so many: of the user's iterable, or the job's example inputs.

    The iterable is asked for again whenever it ends, wherever in a run that is. Those that are gone
    past are drawn at once.
    """
    if data is None:
        return _examples(pipe, where, begun)
    source = _again_and_again(pipe, data, pipe.plan.model.folders)
    for _ in range(begun):
        next(source)
    return source


def batches_again(
    pipe: Pipeline, data: str | None, where: Path, begun: int, first: torch.Tensor
) -> Iterator[dict[str, torch.Tensor]]:
    """As `batches`, which draw what they drew in a training that is gone on with.

    Those that are gone past begin with random numbers as `first` has them, as the training did;
    later ones go on with those that were taken up from the checkpoint.
    """
    restored = torch.get_rng_state()
    torch.set_rng_state(first)
    source = batches(pipe, data, where, begun)
    if not torch.equal(restored, first):
        torch.set_rng_state(restored)
    return source


def _examples(pipe: Pipeline, where: Path, index: int) -> Iterator[dict[str, torch.Tensor]]:
    model = pipe.plan.model
    inputs = find_function(model.inputs, map(Path, model.folders), str(where))
    here = f"rank {pipe.world.rank}: inputs {model.inputs}"
    while True:
        # Every rank must see the same batch, and what the model draws is not to depend on it.
        with torch.random.fork_rng(devices=[]), of_the_user(here):
            torch.manual_seed(index)
            batch = inputs(pipe.plan.batch.global_size)
        index += 1
        yield batch


def _again_and_again(
    pipe: Pipeline, data: str, folders: list[str]
) -> Iterator[dict[str, torch.Tensor]]:
    function = find_function(data, map(Path, folders), "--data")
    here = f"rank {pipe.world.rank}: --data {data}"
    batches = 0
    while True:
        empty = True
        with of_the_user(here):
            iterable = _iterable(function(), here)
        if not batches:
            pipe.same_batches.same_length(iterable)
        with of_the_user(here):
            source: Iterator[Any] = iter(iterable)
        while True:
            with of_the_user(here):
                batch = next(source, ENDED)
            if batch is ENDED:
                break
            empty = False
            if not isinstance(batch, dict):
                kind = type(batch).__name__
                raise RunError(f"{here} gave a {kind}; it must give dictionaries of tensors")
            check_tensors(batch, here, pipe.plan.constants)
            batches += 1
            yield batch
        if empty:
            raise RunError(f"{here} gave no batch")
        pipe.same_batches.data_ended(batches)


def _iterable(source: Any, here: str) -> Iterable[Any]:
    if isinstance(source, dict) or not hasattr(source, "__iter__"):
        kind = type(source).__name__
        raise RunError(f"{here} gave a {kind}; it must give an iterable of batches, such as a list")
    found: Iterable[Any] = source
    return found


@contextmanager
def of_the_user(here: str) -> Iterator[None]:
    """What a user's function raises as a RunError that says where, an exit too."""
    try:
        yield
    except PipecutError:
        raise
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename}:{frame.lineno}"
        kind = type(error).__name__
        raise RunError(f"{here} failed at {place}: {kind}: {error}") from error


@contextmanager
def watch_memory(
    pipe: Pipeline, optimizer: torch.optim.Optimizer, measured: Measured
) -> Iterator[None]:
    """Note the bytes at the peak: the GPU's own count, or on a CPU that of all that operators allocate."""
    if type_of(pipe.world.device).own_memory:
        with watch_peak(pipe.world.device) as peak_bytes:
            yield
            measured.peak_bytes = peak_bytes()
        return
    states = [
        v
        for state in optimizer.state.values()
        for v in state.values()
        if isinstance(v, torch.Tensor)
    ]
    modules = [
        parameter for module in pipe.model.modules.values() for parameter in module.parameters()
    ]
    counted = Allocations(
        [*modules, *pipe.parameters(), *(buffer for _, buffer in pipe.named_buffers()), *states]
    )
    with counted:
        yield
    measured.peak_bytes = counted.peak
