"""What a traced graph leaves out without a word: a model's own backwards and hooks."""

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

# Whose code may read gradient functions: torch's, and that of this package's torch modes.
MAY_READ_GRAD_FN = (
    os.path.dirname(torch.__file__) + os.sep,
    str(Path(__file__).parents[2]) + os.sep,
)


def refuse_scripted(model: nn.Module) -> None:
    """Raises TraceError where a module with parameters or buffers is TorchScript.

    Such a module computes with tensors of its own, not with the plan's.
    """
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
                f"the module '{name}' ({type(module).__name__}) has a backward hook, which no plan "
                "would call; remove it, or watch gradients between pipe.step and optimizer.step in "
                "a loop of your own"
            )


@contextmanager
def refused_backwards(model: nn.Module) -> Iterator[None]:
    """Around a forward. Raises TraceError for gradients that the model computes or hooks itself.

    That is when a forward in training mode calls an autograd.Function that is not torch's, or
    when it registers a hook for a gradient or reads a gradient function.
    """

    def refuse_when_called(function: Any) -> None:
        if not function.__module__.startswith("torch."):
            # Its forward, not its apply, which a model may have kept under another name before.
            forward = staticmethod(_refusing(function, model))
            stack.enter_context(mock.patch.object(function, "forward", forward))

    def init_subclass(function: Any, /, **_: Any) -> None:
        refuse_when_called(function)

    with ExitStack() as stack:
        for function in _subclasses(torch.autograd.Function):
            refuse_when_called(function)
        # A forward may define a function too.
        replaced = {
            (torch.autograd.Function, "__init_subclass__"): classmethod(init_subclass),
            (torch.Tensor, "grad_fn"): property(_grad_fn),
            (torch.Tensor, "register_hook"): _register_hook,
            (torch.Tensor, "register_post_accumulate_grad_hook"): _register_hook,
        }
        for (owner, name), value in replaced.items():
            stack.enter_context(mock.patch.object(owner, name, value, create=True))
        yield


def _refusing(function: Any, model: nn.Module) -> Callable[..., Any]:
    """In place of the forward of an autograd.Function; in eval mode no backward matters."""
    original = function.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if model.training:
            name = f"{function.__module__}.{function.__qualname__}"
            raise TraceError(
                f"the model calls {name}, a torch.autograd.Function, and a traced graph has only "
                "its forward; write it with torch's operators, such as x + (f(x) - x).detach() "
                "for a straight-through gradient"
            )
        return original(*args, **kwargs)

    return forward


def _register_hook(tensor: torch.Tensor, hook: Any) -> Any:
    """In place of Tensor.register_hook."""
    raise TraceError(
        f"the model's forward registers {getattr(hook, '__qualname__', hook)} as a hook for a "
        "gradient, which a traced graph leaves out; remove it, or do the same to the value with "
        "torch's operators"
    )


def _grad_fn(tensor: torch.Tensor) -> Any:
    """In place of Tensor.grad_fn. Raises TraceError where other code than torch's reads it."""
    frame = sys._getframe(1)
    if not frame.f_code.co_filename.startswith(MAY_READ_GRAD_FN):
        line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        raise TraceError(
            f"the model's forward reads grad_fn ({line}), and a plan has other gradient functions, "
            "without hooks; remove the read, and ask self.training for the mode"
        )
    original: Any = torch._C.TensorBase.grad_fn
    return original.__get__(tensor)


@contextmanager
def inference_mode_as_no_grad() -> Iterator[None]:
    """Let torch.inference_mode be torch.no_grad, which a trace records: both compute the same."""

    def enter(context: Any) -> None:
        context.gradients_before = torch.is_grad_enabled()
        torch.set_grad_enabled(not context.mode)

    def leave(context: Any, *_: Any) -> None:
        torch.set_grad_enabled(context.gradients_before)

    with mock.patch.multiple(torch.inference_mode, __enter__=enter, __exit__=leave):
        yield


def _subclasses(base: Any) -> Iterator[Any]:
    """All classes derived from a class."""
    for subclass in base.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
