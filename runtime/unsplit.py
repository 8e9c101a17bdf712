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
        self.traced = False

    def forward(self, batch: dict[str, torch.Tensor]) -> Any:
        """A scalar loss; while it is traced, with the model's other results by name. Raises TraceError when there is none."""
        with self.around():
            output = self.model(**batch)
            loss = self.loss(output, batch) if self.loss is not None else self._loss(output)
        if not self.traced:
            return loss
        named = {"output": output} if isinstance(output, torch.Tensor) else dict(output) if isinstance(output, dict) else {}
        others = {name: t for name, t in named.items() if isinstance(t, torch.Tensor) and t is not loss}
        return [loss, others]

    def _loss(self, output: Any) -> torch.Tensor:
        found = output if isinstance(output, torch.Tensor) else getattr(output, "loss", None)
        if found is None and isinstance(output, dict):
            found = output.get("loss")
        if found is None or found.dim() != 0:
            raise TraceError(
                "the model's result is not a scalar loss and has none as .loss or ['loss']; "
                "return one, pass labels in inputs, or name a function with loss: in the job file"
            )
        return found
