"""What a model does that a traced graph leaves out without a word: backwards and hooks of its own."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from pipecut.errors import TraceError

# Who may ask for gradient functions: torch, and the modes of this package by which its calls go.
INNER = (
    os.path.dirname(torch.__file__) + os.sep,
    str(Path(__file__).parents[2]) + os.sep,
)


def refuse_scripted(model: nn.Module) -> None:
    """Raises TraceError where a module with parameters or buffers is TorchScript, which holds others than the plan's."""
    for name, module in model.named_modules():
        scripted = isinstance(module, torch.jit.ScriptModule)
        if scripted and (*module.parameters(), *module.buffers()):
            raise TraceError(
                f"the module '{name}' is TorchScript (torch.jit.script or torch.jit.trace), whose "
                "parameters no plan can train; replace it with the plain module it was made from"
            )


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

    def refuse_when_called(function: Any) -> None:
        inner = staticmethod(refusing(function, function.forward))
        stack.enter_context(mock.patch.object(function, "forward", inner))

    def made_meanwhile(function: Any, /, **_: Any) -> None:
        if not function.__module__.startswith("torch."):
            refuse_when_called(function)

    with ExitStack() as stack:
        # Its forward, not its apply, which a model may have kept under another name before.
        for function in _functions(torch.autograd.Function):
            refuse_when_called(function)
        made = classmethod(made_meanwhile)
        stack.enter_context(mock.patch.object(torch.autograd.Function, "__init_subclass__", made))
        stack.enter_context(
            mock.patch.object(torch.Tensor, "grad_fn", property(_grad_fn), create=True)
        )
        stack.enter_context(mock.patch.object(torch.Tensor, "register_hook", register_hook))
        stack.enter_context(
            mock.patch.object(torch.Tensor, "register_post_accumulate_grad_hook", register_hook)
        )
        yield


def _grad_fn(tensor: torch.Tensor) -> Any:
    """In place of Tensor.grad_fn. Raises TraceError where other code than torch's asks."""
    frame = sys._getframe(1)
    if not frame.f_code.co_filename.startswith(INNER):
        raise TraceError(
            f"the model's forward reads grad_fn ({frame.f_code.co_filename}:{frame.f_lineno}), and a plan has "
            "other gradient functions, and hooks of none; leave it out, and ask self.training for the mode"
        )
    own: Any = torch._C.TensorBase.grad_fn
    return own.__get__(tensor)


@contextmanager
def inference_mode_as_no_grad() -> Iterator[None]:
    """Let torch.inference_mode be torch.no_grad, which a trace notes: what both compute is the same."""

    def enter(context: Any) -> None:
        context.gradients_before = torch.is_grad_enabled()
        torch.set_grad_enabled(not context.mode)

    def leave(context: Any, *_: Any) -> None:
        torch.set_grad_enabled(context.gradients_before)

    with mock.patch.multiple(torch.inference_mode, __enter__=enter, __exit__=leave):
        yield


def _functions(base: Any) -> Iterator[Any]:
    """Those derived from a class that are not torch's."""
    for function in base.__subclasses__():
        if not function.__module__.startswith("torch."):
            yield function
        yield from _functions(function)
