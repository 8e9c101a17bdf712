"""A plan's optimizer with all that a step of it has: clipping, the learning rate over the steps."""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from pipecut.model.optimizer import learning_rate, make_optimizer
from pipecut.plan.schema import LrSchedule, Optimizer

Clip = Callable[[float], torch.Tensor]


class PlanOptimizer:
    """Steps parameters as a plan says.

    `optimizer` is torch's, `scheduler` torch's too, None where the learning rate stays; `clip` is
    the largest norm of all gradients together, 0 for no limit.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        clip_gradients: Clip,
        clip: float = 0.0,
        schedule: LrSchedule | None = None,
    ) -> None:
        self.optimizer, self.clip_gradients, self.clip = optimizer, clip_gradients, clip
        self.full_rate = float(optimizer.param_groups[0]["lr"])
        self.schedule = schedule
        self.scheduler = None if schedule is None else LambdaLR(optimizer, self._factor)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self) -> torch.Tensor | None:
        """Clip gradients, step, and drop them; the next step has the schedule's next rate.

        All ranks must call it together. Returns the norm before clipping, None without a limit.
        """
        norm = self.clip_gradients(self.clip) if self.clip else None
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.scheduler is not None:
            self.scheduler.step()
        return norm

    def go_on(self, steps: int) -> None:
        """After a checkpoint's options were taken, which was written after so many steps.

        Its full rate goes on, and the schedule is at this step.
        """
        group = self.optimizer.param_groups[0]
        scheduled = self.scheduler is not None and "initial_lr" in group
        self.set_full_rate(float(group["initial_lr"] if scheduled else group["lr"]), steps)

    def set_full_rate(self, rate: float, steps: int) -> None:
        """Give it another full rate after so many steps."""
        self.full_rate = rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if self.scheduler is not None:
                group["initial_lr"] = rate
                group["lr"] = rate * self._factor(steps)
        if self.scheduler is not None:
            self.scheduler.base_lrs = [rate for _ in self.optimizer.param_groups]
            self.scheduler.last_epoch = steps

    def _factor(self, step: int) -> float:
        assert self.schedule is not None
        return self.schedule.rate(step, self.full_rate) / self.full_rate if self.full_rate else 1.0


def plan_optimizer(
    optimizer: Optimizer,
    named: Iterable[tuple[str, nn.Parameter]],
    clip_gradients: Clip,
    clip: float = 0.0,
    schedule: LrSchedule | None = None,
    rate: float | None = None,
) -> PlanOptimizer:
    """A plan's optimizer over parameters by FQN; see `make_optimizer`. Raises PlanError."""
    full = learning_rate(optimizer) if rate is None else rate
    return PlanOptimizer(make_optimizer(optimizer, named, full), clip_gradients, clip, schedule)
