"""What is said of a step: on the progress bar, in lines, in the log."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StepRecord:
    """A step, counted from 1 over all runs.

    `norm` is that of the gradients before they were clipped, None where they are not. `seconds` are
    of the whole step, with the optimizer. `tokens` is 0 where the batch has none. `mfu` is the
    model's FLOPs over what all devices could compute meanwhile, None where their peak is not known.
    `peak_bytes` is the memory of the rank that took most so far, None where nobody asked.
    """

    step: int
    loss: float
    rate: float
    norm: float | None
    seconds: float
    samples: int
    tokens: int
    mfu: float | None = None
    peak_bytes: int | None = None

    @property
    def speed(self) -> str:
        """Tokens per second where the batch has any, else samples."""
        if self.tokens:
            return f"{self.tokens / self.seconds:,.0f} tokens/s"
        return f"{self.samples / self.seconds:.1f} samples/s"

    def as_json(self) -> dict[str, Any]:
        """What of it is known, in plain values; a number that is not finite is null."""
        unit, count = ("tokens", self.tokens) if self.tokens else ("samples", self.samples)
        values = {
            "step": self.step,
            "loss": self.loss,
            "lr": self.rate,
            "grad_norm": self.norm,
            "seconds": self.seconds,
            f"{unit}_per_second": count / self.seconds,
            "mfu": self.mfu,
            "memory_peak_bytes": self.peak_bytes,
        }
        return {
            name: value if math.isfinite(value) else None
            for name, value in values.items()
            if value is not None
        }
