"""The training loop of `pipecut run`: batches in, losses and seconds out, checkpoints between."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pipecut.device.work import synchronize
from pipecut.errors import CheckpointError, DivergedError, PeerLostError
from pipecut.model.plan_optimizer import PlanOptimizer
from pipecut.runtime.batches.microbatches import count_samples
from pipecut.runtime.checkpoint.folder import home_of, last_finite, refuse_earlier
from pipecut.runtime.checkpoint.manifest import spoken
from pipecut.runtime.checkpoint.rank_tensors import not_finite
from pipecut.runtime.checkpoint.restoring import find_checkpoint
from pipecut.runtime.checkpoint.stopping import Stopping
from pipecut.runtime.engine.recorder import Measured
from pipecut.runtime.health.status import State
from pipecut.runtime.pipeline import Pipeline
from pipecut.runtime.training.data import Batch, batches_to_resume
from pipecut.runtime.training.evaluations import evaluated_loss
from pipecut.runtime.training.log import TrainingLog
from pipecut.runtime.training.peak_memory import most_bytes, watching_memory
from pipecut.runtime.training.progress import Progress, StepTimes, count_tokens
from pipecut.runtime.training.requirements import refuse_without_loss
from pipecut.runtime.training.step_record import StepRecord

# float16 leaves out a step whose gradients overflow; so many in a row are no accident.
OVERFLOWS = 20


@dataclass(frozen=True)
class TrainingOptions:
    """Steps in all; a folder for checkpoints, how often to write one (0: never), how many to keep.

    Learning rate and gradient norm to clip to (0: none) are None where the user sets none: then
    those of the checkpoint go on, or those of the job. With `resume` there must be a checkpoint;
    one that was `restarted` takes one where there is one. `log` is a folder for the log, if any.
    Checkpoints with `trained_only` leave frozen parameters out.
    """

    steps: int
    rate: float | None
    clip: float | None
    folder: Path
    checkpoint_every: int
    keep: int
    resume: bool
    restarted: bool = False
    log: Path | None = None
    trained_only: bool = False


@dataclass
class Training:
    """A training under way. `begun` steps were done before this run."""

    pipe: Pipeline
    options: TrainingOptions
    begun: int = 0
    overflows: int = 0
    stopped: bool = False
    home: Path = Path()
    log: TrainingLog | None = None
    measured: Measured = field(default_factory=Measured)

    def __post_init__(self) -> None:
        self.progress = Progress(self.pipe.plan, self.options.steps, self.pipe.world.rank == 0)

    @property
    def done(self) -> int:
        """Steps in all, those before this run among them."""
        return self.begun + self.progress.done

    def run(self, data: str | None, plan: Path, stopping: Stopping | None = None) -> None:
        """Train from the first step, or from the last checkpoint, to the last or until stopped."""
        pipe, options = self.pipe, self.options
        first_state = torch.get_rng_state()
        optimizer = self._begin(data)
        if options.log is not None and pipe.world.rank == 0:
            self.log = TrainingLog(options.log, self.begun)
        stopping = stopping or Stopping(pipe.world.rank, pipe.world.size)
        pipe.world.status.step = self.begun + 1
        pipe.world.status.note(State.BETWEEN)
        source = batches_to_resume(pipe, data, plan, self.begun, first_state)
        try:
            self.progress.begin(self.begun)
            self._steps(source, optimizer, stopping)
        finally:
            self.progress.end()
            if self.log is not None:
                self.log.close()
        pipe.finish_saving()
        self._check_parameters()
        if not self.stopped and self.progress.times:
            self.measured.step_seconds = self.progress.step_seconds
            self.progress.sum_up()

    def _steps(self, source: Iterator[Batch], optimizer: PlanOptimizer, stopping: Stopping) -> None:
        """All steps that are left, with their evaluations and checkpoints, until stopped."""
        pipe, options = self.pipe, self.options
        for step in range(self.begun, options.steps):
            self._step(step, next(source), optimizer)
            self._evaluate(step)
            pipe.saving.raise_failed()
            self.stopped = stopping.after(step + 1) and step + 1 < options.steps
            if options.checkpoint_every and (
                (step + 1) % options.checkpoint_every == 0 or self.stopped
            ):
                self._save(step + 1, optimizer)
            if self.stopped:
                break

    def _save(self, step: int, optimizer: PlanOptimizer) -> None:
        """Begin to write a checkpoint."""
        keep, trained_only = self.options.keep, self.options.trained_only
        self.pipe.save(
            self.home, optimizer, step=step, keep=keep, wait=False, trained_only=trained_only
        )

    def _begin(self, data: str | None) -> PlanOptimizer:
        """The optimizer, at the first step or where the last checkpoint left it."""
        pipe, options, saving = self.pipe, self.options, self.pipe.saving
        refuse_without_loss(pipe.plan)
        optimizer = pipe.optimizer(options.rate, options.clip)
        saving.recipe = {"kind": pipe.plan.optimizer.name, "data": data}
        saving.recipe |= {"clip": options.clip} if options.clip is not None else {}
        restarts = options.restarted and find_checkpoint(pipe.world, options.folder) is not None
        if options.checkpoint_every and not (options.resume or options.restarted):
            refuse_earlier(options.folder)
        self.home = home_of(options.folder)
        if options.checkpoint_every:
            saving.enter(self.home)
        if options.resume or restarts:
            self._resume(optimizer)
        elif pipe.model.values_missing:
            raise CheckpointError(
                f"rank {pipe.world.rank}: {options.folder} has checkpoints, but none that all "
                "ranks see; move them elsewhere to begin anew"
            )
        else:
            self._say_what_options_replace()
        if options.checkpoint_every:
            saving.set_aside(self.home, self.begun)
        saving.recipe["clip"] = optimizer.clip
        return optimizer

    def _say_what_options_replace(self) -> None:
        """Of what the job says itself."""
        plan, options = self.pipe.plan, self.options
        of_job = {"--lr": plan.optimizer.arguments.get("lr"), "--clip": plan.clip or None}
        for option, given in (("--lr", options.rate), ("--clip", options.clip)):
            job = of_job[option]
            if self.progress.loud and given is not None and job is not None and given != job:
                print(f"{option} {given:g} in place of the job's {job:g}", flush=True)

    def _resume(self, optimizer: PlanOptimizer) -> None:
        pipe, options = self.pipe, self.options
        self.begun = pipe.restore(options.folder, optimizer)
        saved_rate = optimizer.rate
        if options.rate is not None:
            optimizer.set_full_rate(options.rate, self.begun)
        if options.clip is None:
            optimizer.clip = float(pipe.saving.recipe.get("clip", optimizer.clip))
        if not self.progress.loud:
            return
        rate = optimizer.rate
        changed = f" as given, not {saved_rate:g}" if rate != saved_rate else ""
        clipped = f", gradients clipped to {optimizer.clip:g}" if optimizer.clip else ""
        print(
            f"going on after step {self.begun}, from {options.folder}, "
            f"with a learning rate of {rate:g}{changed}{clipped}",
            flush=True,
        )
        if self.begun >= options.steps:
            print(
                f"nothing to do: --steps {options.steps} counts the steps before, too", flush=True
            )

    def _step(self, step: int, batch: Batch, optimizer: PlanOptimizer) -> None:
        pipe, options, recorder = self.pipe, self.options, self.pipe.engine.recorder
        # The second step: optimizer states are there, and it is not among those that are timed.
        is_watched = recorder is not None and self.progress.done == 1
        torchs = optimizer.optimizer
        watching = watching_memory(pipe, torchs, self.measured) if is_watched else nullcontext()
        begin = time.perf_counter()
        with watching:
            loss = pipe.step(**batch)
        synchronize(pipe.world.device)
        passes = time.perf_counter() - begin
        if recorder is not None:
            self.measured.add(recorder.take())
        self._check_finite(step, float(loss))
        rate, norm = optimizer.rate, optimizer.step()
        times = StepTimes(passes, time.perf_counter() - begin)
        prediction = pipe.plan.prediction
        readers = pipe.plan.replicas if pipe.splitter.sharded else 1
        peak_flops = prediction.peak_flops * times.total
        record = StepRecord(
            step=step + 1,
            loss=float(loss),
            rate=rate,
            norm=None if norm is None else float(norm),
            seconds=times.total,
            samples=count_samples(pipe.plan, batch) * readers,
            tokens=count_tokens(pipe.plan, batch) * readers,
            mfu=prediction.flops / peak_flops if peak_flops else None,
            peak_bytes=None if options.log is None else most_bytes(pipe.world),
        )
        self.progress.add(record, times)
        if self.log is not None:
            self.log.add(record)

    def _evaluate(self, step: int) -> None:
        """The loss in eval mode, after the steps that the job's `eval:` says, and the last one."""
        evaluation = self.pipe.plan.eval
        done = step + 1
        if evaluation is None or (done % evaluation.every and done != self.options.steps):
            return
        loss = evaluated_loss(self.pipe, evaluation.data)
        if self.progress.loud:
            print(f"step {done:5d}/{self.options.steps}  eval loss {loss:8.4f}", flush=True)
        if self.log is not None:
            self.log.add_evaluation(done, loss)

    def _check_finite(self, step: int, loss: float) -> None:
        """Stop before the optimizer makes all parameters NaN or infinite. Raises DivergedError."""
        if math.isfinite(loss):
            self.overflows = 0
            return
        self.overflows += 1
        if self.pipe.scale.used and self.overflows < OVERFLOWS:
            if self.progress.loud and self.overflows == 1:
                print(f"step {step + 1}: the loss is {loss}; the step is left out", flush=True)
            return
        self.pipe.finish_saving()
        if self.pipe.world.rank:
            raise PeerLostError(
                f"rank {self.pipe.world.rank}: stopped, as rank 0 did, which says why"
            )
        last = last_finite(self.home) if self.options.checkpoint_every else None
        kept = f"--resume goes on from {last}" if last is not None else "no checkpoint was written"
        raise DivergedError(
            f"step {step + 1}: the loss is {loss}; stopped before the optimizer's step. {kept}; "
            "try a smaller --lr, or --clip 1, and look at the data of this step"
        )

    def _check_parameters(self) -> None:
        """The last step's gradients may be NaN though its loss was none. Raises DivergedError."""
        if not self.progress.done:
            return
        named = {f"parameter/{name}": p.detach() for name, p in self.pipe.named_parameters()}
        wrong = not_finite(named)
        if wrong is not None:
            raise DivergedError(
                f"rank {self.pipe.world.rank}: after step {self.done} {spoken(wrong)} has values "
                "that are no finite numbers, though the loss was one: a gradient of that step was "
                "none. Nothing of it is saved; look at the data of that step, and at operators "
                "whose derivative has no bound, such as sqrt at 0"
            )
