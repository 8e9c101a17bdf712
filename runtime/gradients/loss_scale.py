"""By how much a float16 loss is multiplied, so that small gradients are not rounded to zero."""

from collections.abc import Iterable

import torch
from torch import nn


class LossScale:
    """As torch.amp.GradScaler with its defaults; left at 1 for precisions other than fp16.

    Halved when a gradient overflows, whose step is left out, and doubled after 2,000 steps in which
    none did.
    """

    GROWTH, BACKOFF, INTERVAL = 2.0, 0.5, 2000
    # GradScaler's first scale, 2**16.
    FIRST = 65536.0

    def __init__(self, precision: str) -> None:
        self.used = precision == "fp16"
        self.scale = self.FIRST if self.used else 1.0
        # Steps without an overflow, since the last one or the start.
        self.good = 0

    def overflows(self, parameters: Iterable[nn.Parameter]) -> torch.Tensor:
        """1 where a gradient of this rank is infinite or NaN, else 0: to be joined over ranks."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return torch.zeros(())
        finite = torch.stack([torch.isfinite(gradient).all() for gradient in gradients])
        return finite.all().logical_not().float()

    def apply(self, parameters: Iterable[nn.Parameter], overflowed: bool) -> None:
        """Divide gradients by the scale, or drop all where one overflowed; then adapt the scale.

        An optimizer leaves out parameters without a gradient, so the step changes nothing.
        """
        for parameter in parameters:
            if parameter.grad is not None and overflowed:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.div_(self.scale)
        self.good = 0 if overflowed else self.good + 1
        if overflowed:
            self.scale *= self.BACKOFF
        elif self.good % self.INTERVAL == 0:
            self.scale *= self.GROWTH

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"scale": self.scale, "good": float(self.good)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """From a checkpoint."""
        self.scale, self.good = state["scale"], int(state["good"])
