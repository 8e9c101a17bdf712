"""What a traced graph leaves out without a word: hooks of gradients, and TorchScript."""

import os
import sys
from collections.abc import Iterator, Sequence
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


def refuse_hooks(model: nn.Module, opaque: Sequence[str] = ()) -> None:
    """Raises TraceError where a parameter or module has a hook for its gradients.

    Modules that run as they are, at the paths in `opaque`, keep theirs.
    """
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise TraceError(
                f"the parameter '{name}' has a gradient hook, which no plan would call; "
                "change gradients between pipe.step and optimizer.step in a loop of your own"
            )
    for name, module in model.named_modules():
        as_it_is = any(f"{name}.".startswith(f"{path}.") for path in opaque)
        if not as_it_is and (module._backward_hooks or module._backward_pre_hooks):
            raise TraceError(
                f"the module '{name}' ({type(module).__name__}) has a backward hook, which no plan "
                "would call; remove it, or watch gradients between pipe.step and optimizer.step in "
                "a loop of your own"
            )


@contextmanager
def refused_hooks() -> Iterator[None]:
    """Around a forward. Raises TraceError where it hooks a gradient, or reads its function."""
    replaced = {
        "grad_fn": property(_grad_fn),
        "register_hook": _register_hook,
        "register_post_accumulate_grad_hook": _register_hook,
    }
    with ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch.object(torch.Tensor, name, value, create=True))
        yield


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
