"""A step does what the plan says, whatever surrounds the call.

That may be autocast, no_grad, inference mode, or another default dtype.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Concatenate, Protocol, TypeVar

import torch

from pipecut.plan.schema import Plan
from pipecut.runtime.ranks.world import World


class _OfPlan(Protocol):
    """A method's object that has a plan and a device."""

    plan: Plan
    world: World


Self = TypeVar("Self", bound=_OfPlan)
Result = TypeVar("Result")


@contextmanager
def own_terms(device: torch.device, default_dtype: torch.dtype) -> Iterator[None]:
    """Gradients on, no autocast, the default dtype of the model's trace; afterwards as before.

    Stages hold what the model itself does of these. Deterministic algorithms and the precision of
    products are left to the user.
    """
    surrounding = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        try:
            torch.set_default_dtype(default_dtype)
            yield
        finally:
            torch.set_default_dtype(surrounding)


def on_own_terms(
    method: Callable[Concatenate[Self, ...], Result],
) -> Callable[Concatenate[Self, ...], Result]:
    """A method of a pipeline under `own_terms`.

    Tensors made in inference mode are copied, so that backward may keep them.
    """

    @wraps(method)
    def within(self: Self, *args: Any, **kwargs: Any) -> Result:
        with own_terms(self.world.device, getattr(torch, self.plan.model.default_dtype)):
            arguments = {name: _normal(value) for name, value in kwargs.items()}
            return method(self, *args, **arguments)

    return within


def _normal(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) and value.is_inference() else value
