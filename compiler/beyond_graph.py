"""What a model does that a traced graph leaves out without a word: backwards and hooks of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn

from pipecut.errors import TraceError


def refuse_hooks(model: nn.Module) -> None:
    """Raises TraceError where a parameter or module has a hook for its gradients."""
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise TraceError(
                f"the parameter '{name}' has a gradient hook, which no plan would call; "
                "change gradients between pipe.step and optimizer.step in a loop of your own"
            )
    for name, module in model.named_modules():
        if module._backward_hooks or module._backward_pre_hooks:
            raise TraceError(
                f"the module '{name}' ({type(module).__name__}) has a backward hook, which no plan would call; "
                "remove it, or watch gradients between pipe.step and optimizer.step in a loop of your own"
            )


@contextmanager
def refused_backwards(model: nn.Module) -> Iterator[None]:
    """Raises TraceError when a forward that trains calls an autograd.Function that is not torch's, or hooks a gradient."""

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if model.training and not cls.__module__.startswith("torch."):
            raise TraceError(
                f"the model calls {cls.__module__}.{cls.__qualname__}, a torch.autograd.Function, and a traced graph has its "
                "forward alone; write it with torch's operators, such as x + (f(x) - x).detach() for a straight-through gradient"
            )
        return original(cls, *args, **kwargs)

    def register_hook(tensor: torch.Tensor, hook: Any) -> Any:
        raise TraceError(
            f"the model's forward registers {getattr(hook, '__qualname__', hook)} as a hook for a gradient, which a traced "
            "graph leaves out; remove it, or do the same to the value with torch's operators"
        )

    original = torch.autograd.Function.apply.__func__  # type: ignore[attr-defined]
    with (
        mock.patch.object(torch.autograd.Function, "apply", classmethod(apply)),
        mock.patch.object(torch.Tensor, "register_hook", register_hook),
    ):
        yield
