"""How a training goes, for people: losses and seconds of its steps, printed by rank 0."""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

import torch

from pipecut.plan.schema import Plan

# Steps that warm up, and steps whose seconds are kept for the medians.
WARM, TIMED = 3, 1000
# Lines that a training prints, about.
LINES = 20


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a step: forward and backward, and with the optimizer."""

    passes: float
    total: float


@dataclass
class Progress:
    """Losses and times of a training of `steps` steps in all; only where `loud` it prints."""

    plan: Plan
    steps: int
    loud: bool
    done: int = 0
    first_loss: float = 0.0
    last_loss: float = 0.0
    times: deque[StepTimes] = field(default_factory=lambda: deque(maxlen=TIMED))

    def add(self, step: int, loss: float, times: StepTimes, batch: dict[str, torch.Tensor]) -> None:
        """Note a step, counted from 0 over all runs; print a line now and then."""
        self.first_loss = loss if not self.done else self.first_loss
        self.last_loss = loss
        self.done += 1
        if self.done <= WARM + 1:
            # The first steps warm up; where there are no others, the last of them has to do.
            self.times.clear()
        self.times.append(times)
        if self.loud and (step % max(1, self.steps // LINES) == 0 or step == self.steps - 1):
            speed = self._speed(times.total, batch)
            print(f"step {step + 1:5d}/{self.steps}  loss {loss:8.4f}  {speed}", flush=True)

    @property
    def step_seconds(self) -> float:
        """Seconds of forward and backward of a step: the median."""
        return median(times.passes for times in self.times)

    def sum_up(self) -> None:
        """Print the losses, and the step's seconds beside the predicted ones."""
        if not self.loud or not self.times:
            return
        predicted, measured = self.plan.prediction.step_seconds * 1e3, self.step_seconds * 1e3
        total = median(times.total for times in self.times) * 1e3
        print(
            f"loss {self.first_loss:.4f} before, {self.last_loss:.4f} after {self.steps} steps\n"
            f"forward and backward of a step: predicted {predicted:.1f} ms, "
            f"measured {measured:.1f} ms; with the optimizer {total:.1f} ms (medians)",
            flush=True,
        )

    def _speed(self, seconds: float, batch: dict[str, torch.Tensor]) -> str:
        tokens = count_tokens(batch)
        rate = (
            f"{tokens / seconds:9,.0f} tokens/s"
            if tokens
            else f"{self.plan.batch.global_size / seconds:9.1f} samples/s"
        )
        return f"{seconds * 1e3:8.1f} ms  {rate}"


def count_tokens(batch: dict[str, torch.Tensor]) -> int:
    """Elements of the first tensor of integers that is more than one label per sample."""
    tensors = (t for t in batch.values() if not t.is_floating_point() and t.dim() > 1)
    return next((tensor.numel() for tensor in tensors), 0)
