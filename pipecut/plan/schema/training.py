"""How a plan trains beside its optimizer: the learning rate over the steps, and evaluations."""

from math import cos, pi
from typing import Annotated, Literal

from pydantic import Field

from pipecut.plan.schema.numbers import Count, PlanModel, Positive

Rate = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Norm = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Decay = Literal["constant", "linear", "cosine"]


class LrSchedule(PlanModel):
    """The learning rate grows in `warmup` steps, then falls to `minimum` until step `steps`."""

    warmup: Count = 0
    decay: Decay = "constant"
    steps: Positive | None = None
    minimum: Rate = 0.0

    def rate(self, step: int, full: float) -> float:
        """The learning rate of a step, counted from 0, where it is `full` at the most."""
        if step < self.warmup:
            return full * (step + 1) / self.warmup
        if self.decay == "constant" or self.steps is None:
            return full
        length = max(1, self.steps - self.warmup)
        passed = min(1.0, (step - self.warmup) / length)
        left = 1.0 - passed if self.decay == "linear" else (1.0 + cos(pi * passed)) / 2.0
        return self.minimum + (full - self.minimum) * left


class EvalData(PlanModel):
    """Batches ("module:function") whose loss in eval mode is taken after every so many steps."""

    data: str
    every: Positive
