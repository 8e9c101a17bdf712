"""The user's model as one module from batch to loss, which is traced, and compared with a run."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from pipecut.errors import TraceError
from pipecut.model.batch.nesting import nested
from pipecut.model.outputs import loss_in, outputs_of
from pipecut.plan.schema import Nesting

Loss = Callable[[Any, dict[str, torch.Tensor]], torch.Tensor]
# Kinds of a function's parameters: **kwargs, and those that a name can be passed for.
ANY_NAME = inspect.Parameter.VAR_KEYWORD
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Reasons:
    """Why outputs are left out: kept from a trace, which restores the module's own attributes."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}


class WithLoss(nn.Module):
    """Calls `model(**batch)` and finds the loss in its result.

    With a loss function, the model is called with those parts of the batch that its forward takes.
    """

    def __init__(self, model: nn.Module, loss: Loss | None) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.takes = names_taken(model) if loss is not None else None
        # Around a call with its batch, and within that.
        self.around: Callable[[dict[str, Any]], AbstractContextManager[Any]] = nullcontext
        self.inside: Callable[[], AbstractContextManager[Any]] = nullcontext
        # Told a batch's sizes as a forward begins; what stands for opaque modules in a trace.
        self.begin: Callable[[Mapping[str, Any]], None] = lambda _: None
        self.opaque: Any = None
        self.traced = False
        # In eval mode a model may have no loss. `left_out`: why results are no outputs, in a trace.
        self.has_loss = True
        self.left_out = Reasons()
        # In a trace: the user's name of each tensor, and what else is in a batch.
        self.names: dict[str, str] = {}
        self.constants: dict[str, Any] = {}
        self.whole: frozenset[str] = frozenset()
        # What the tensors and constants of a batch are nested in, by the names that it has them by.
        self.nesting: Nesting = {}
        # For each length of a batch, a tensor that has it, and in which dimension.
        self.lengths: dict[str, tuple[str, int]] = {}
        # Parameters with gradient hooks, by name.
        self.hooked: frozenset[str] = frozenset()
        # Each two buffers that share memory, by name.
        self.sharing_buffers: tuple[tuple[str, str], ...] = ()

    def forward(self, batch: dict[str, Any]) -> Any:
        """A scalar loss; in a trace, with other results. Raises TraceError without a loss."""
        batch = {
            self.names.get(name, name): value for name, value in batch.items()
        } | self.constants
        self.begin(self._sizes(batch))
        with self.around(batch), self.inside():
            batch = nested(self.nesting, batch) if self.nesting else batch
            takes = self.takes if self.takes is not None else batch
            output = self.model(**{name: batch[name] for name in batch if name in takes})
            loss = self._loss(output, batch) if self.has_loss else None
        if not self.traced:
            return loss
        outputs = outputs_of(output, loss)
        self.left_out.now = outputs.left_out
        return {"loss": [] if loss is None else [loss], "others": outputs.tensors}

    def _sizes(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Of the first tensor that is split its samples, as `batch`, and lengths by name."""
        split = (name for name in batch if name not in self.whole)
        tensors = (batch[name] for name in split if isinstance(batch[name], torch.Tensor))
        sizes = {"batch": next((tensor.shape[0] for tensor in tensors), 1)}
        return sizes | {n: batch[of].shape[at] for n, (of, at) in self.lengths.items()}

    def _loss(self, output: Any, batch: dict[str, Any]) -> torch.Tensor:
        loss = self.loss(output, batch) if self.loss is not None else _loss_in(output)
        _check_loss(loss, self.loss)
        return loss


def names_taken(model: nn.Module) -> frozenset[str] | None:
    """Names that the model's forward takes; None where it takes any, or does not say."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind == ANY_NAME for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters if parameter.kind in NAMED)


def names_needed(model: nn.Module) -> tuple[str, ...]:
    """Names without which the model's forward cannot be called."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    variable = (ANY_NAME, inspect.Parameter.VAR_POSITIONAL)
    return tuple(p.name for p in parameters if p.default is p.empty and p.kind not in variable)


def _loss_in(output: Any) -> Any:
    loss = loss_in(output)
    if loss is None:
        raise TraceError(
            "the model's result is not a scalar loss and has none as .loss or ['loss']; "
            "return one, pass labels in inputs, or name a function with loss: in the job file"
        )
    return loss


def _check_loss(loss: Any, function: Loss | None) -> None:
    """Raises TraceError for a value that backward cannot begin at."""
    source = (
        f"loss: {function.__module__}:{function.__name__} returns"
        if function is not None
        else "the model's loss is"
    )
    if not isinstance(loss, torch.Tensor):
        raise TraceError(
            f"{source} a {type(loss).__name__}; it must be a scalar tensor, so leave out .item() "
            "and float()"
        )
    if loss.dim() != 0:
        sizes = ", ".join(str(size) if isinstance(size, int) else "batch" for size in loss.shape)
        raise TraceError(
            f"{source} a tensor of shape [{sizes}]; it must be a scalar, as .mean() returns it"
        )
    if not loss.is_floating_point():
        kind = str(loss.dtype).removeprefix("torch.")
        remedy = (
            "take its real part"
            if loss.is_complex()
            else "an integer has no gradient: compute it in floating point"
        )
        raise TraceError(f"{source} {kind}; it must be a real floating number: {remedy}")
