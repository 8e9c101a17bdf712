"""How a training goes, for people: a bar in a terminal, lines elsewhere, printed by rank 0."""

import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pipecut.plan.schema import Plan
from pipecut.quantities import counted
from pipecut.runtime.training.step_record import StepRecord

# Steps that warm up, and steps whose seconds are kept for the medians.
WARM, TIMED = 3, 1000
# Lines that a training prints, about.
LINES = 20
# Seconds between two pictures of the bar.
REDRAWN = 0.1


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a step: forward and backward, and with the optimizer."""

    passes: float
    total: float


class TrainingBar:
    """Steps done, the time left, loss and speed, in one line that is drawn anew.

    A context: what is printed meanwhile stands above it. It draws only when a step is added, so
    that no thread of its own disturbs the step.
    """

    def __init__(self, steps: int, begun: int) -> None:
        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self.console = Console()
        self.bar = Bar(*columns, console=self.console, auto_refresh=False)
        self.task = self.bar.add_task("", total=steps, completed=begun)
        self.drawn = 0.0
        self.bar.start()
        # A rank that is killed could not show it again.
        self.console.show_cursor(True)

    def add(self, record: StepRecord) -> None:
        """Show a step."""
        used = f"  MFU {record.mfu:.0%}" if record.mfu is not None else ""
        text = f"loss {record.loss:.4f}  {record.speed}{used}"
        self.bar.update(self.task, completed=record.step, description=text)
        if time.monotonic() - self.drawn > REDRAWN:
            self.drawn = time.monotonic()
            self.bar.refresh()

    def close(self) -> None:
        """Draw it for the last time."""
        self.bar.refresh()
        self.bar.stop()


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
    bar: TrainingBar | None = None

    def begin(self, begun: int) -> None:
        """In a terminal, show a bar from now on."""
        if self.loud and sys.stdout.isatty() and begun < self.steps:
            self.bar = TrainingBar(self.steps, begun)

    def add(self, record: StepRecord, times: StepTimes) -> None:
        """Note a step; show it on the bar, or print a line now and then."""
        self.first_loss = record.loss if not self.done else self.first_loss
        self.last_loss = record.loss
        self.done += 1
        if self.done <= WARM + 1:
            # The first steps warm up; where there are no others, the last of them has to do.
            self.times.clear()
        self.times.append(times)
        if self.bar is not None:
            self.bar.add(record)
            return
        last = record.step == self.steps
        if self.loud and ((record.step - 1) % max(1, self.steps // LINES) == 0 or last):
            print(self._line(record), flush=True)

    def end(self) -> None:
        """Leave the bar as it is now."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

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
            f"loss {self.first_loss:.4f} before, {self.last_loss:.4f} after "
            f"{counted(self.steps, 'step')}\n"
            f"forward and backward of a step: predicted {predicted:.1f} ms, "
            f"measured {measured:.1f} ms; with the optimizer {total:.1f} ms (medians)",
            flush=True,
        )

    def _line(self, record: StepRecord) -> str:
        number, _, unit = record.speed.partition(" ")
        used = f"  MFU {record.mfu:.0%}" if record.mfu is not None else ""
        return (
            f"step {record.step:5d}/{self.steps}  loss {record.loss:8.4f}  "
            f"{record.seconds * 1e3:8.1f} ms  {number:>9s} {unit}{used}"
        )


def count_tokens(plan: Plan, batch: Mapping[str, Any]) -> int:
    """Elements of the first input of integers that is more than one label per sample.

    An input may be a list of a tensor for each microbatch or sample.
    """
    dimensions = {tensor.name: len(tensor.shape) for tensor in plan.inputs}
    for name, value in batch.items():
        tensors = value if isinstance(value, list | tuple) else [value]
        if dimensions.get(name, 0) > 1 and not tensors[0].is_floating_point():
            return sum(tensor.numel() for tensor in tensors)
    return 0
