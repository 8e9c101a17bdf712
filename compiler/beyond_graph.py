"""What a model does that a traced graph leaves out without a word: backwards and hooks of its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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

    def register_hook(tensor: torch.Tensor, hook: Any) -> Any:
        raise TraceError(
            f"the model's forward registers {getattr(hook, '__qualname__', hook)} as a hook for a gradient, which a traced "
            "graph leaves out; remove it, or do the same to the value with torch's operators"
        )

    def refusing(function: type, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if model.training:
                raise TraceError(
                    f"the model calls {function.__module__}.{function.__qualname__}, a torch.autograd.Function, and a traced "
                    "graph has its forward alone; write it with torch's operators, such as x + (f(x) - x).detach() for a "
                    "straight-through gradient"
                )
            return original(*args, **kwargs)

        return forward

    with ExitStack() as stack:
        # Its forward, not its apply, which a model may have kept under another name before.
        for function in _functions(torch.autograd.Function):
            stack.enter_context(mock.patch.object(function, "forward", staticmethod(refusing(function, function.forward))))
        stack.enter_context(mock.patch.object(torch.Tensor, "register_hook", register_hook))
        stack.enter_context(mock.patch.object(torch.Tensor, "register_post_accumulate_grad_hook", register_hook))
        yield


def _functions(base: Any) -> Iterator[Any]:
    """Those derived from a class that are not torch's."""
    for function in base.__subclasses__():
        if not function.__module__.startswith("torch."):
            yield function
        yield from _functions(function)
