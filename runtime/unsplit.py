"""The user's model as one module from batch to loss: what is traced, and what a run is compared with."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from pipecut.errors import TraceError

Loss = Callable[[Any, dict[str, torch.Tensor]], torch.Tensor]


class WithLoss(nn.Module):
    """Calls `model(**batch)` and finds the loss in its result."""

    def __init__(self, model: nn.Module, loss: Loss | None) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.around: Callable[[], AbstractContextManager[Any]] = nullcontext

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """A scalar loss. Raises TraceError when the result has none."""
        with self.around():
            output = self.model(**batch)
            if self.loss is not None:
                return self.loss(output, batch)
        found = output if isinstance(output, torch.Tensor) else getattr(output, "loss", None)
        if found is None and isinstance(output, dict):
            found = output.get("loss")
        if found is None or found.dim() != 0:
            raise TraceError(
                "the model's result is not a scalar loss and has none as .loss or ['loss']; "
                "return one, pass labels in inputs, or name a function with loss: in the job file"
            )
        return found
