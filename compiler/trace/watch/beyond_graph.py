"""What a traced graph leaves out without a word: hooks and gradients, TorchScript, `.data`."""

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn.modules import module as of_modules
from torch.utils._python_dispatch import TorchDispatchMode

from pipecut.compiler.trace.backward.gradient_hooks import named
from pipecut.compiler.trace.opaque.untraceable import NotEvenOpaque, Untraceable
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
    """Raises TraceError where a module has a hook for gradients.

    Modules that run as they are, at the paths in `opaque`, keep theirs.
    """
    for hook in (
        *of_modules._global_backward_hooks.values(),
        *of_modules._global_backward_pre_hooks.values(),
    ):
        raise TraceError(
            f"{named(hook)} is a backward hook of all modules, which no plan would call; remove "
            "it, or watch gradients between pipe.step and optimizer.step in a loop of your own"
        )
    for name, module in model.named_modules():
        if any(f"{name}.".startswith(f"{path}.") for path in opaque):
            continue
        for hook in (*module._backward_hooks.values(), *module._backward_pre_hooks.values()):
            raise Untraceable(
                f"the module '{name}' ({type(module).__name__}) has a backward hook, "
                f"{named(hook)}, which no plan would call; remove it, watch gradients between "
                "pipe.step and optimizer.step in a loop of your own, or let the module run as it "
                f'is, with model.opaque: ["{name}"]',
                name,
                f"it has a backward hook, {named(hook)}",
            )


@contextmanager
def past_autograd_seen() -> Iterator[None]:
    """Around a forward. Raises TraceError where it hooks a gradient, or reads its function.

    What it does to the `.data` of a tensor it does to the tensor, detached: a trace loses `.data`.
    """
    replaced = {
        "grad_fn": property(_grad_fn),
        "grad": property(_grad, _set_grad),
        "data": property(_data, _set_data),
        "requires_grad_": _requires_grad,
        "register_hook": _register_hook,
        "register_post_accumulate_grad_hook": _register_hook,
    }
    with ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch.object(torch.Tensor, name, value, create=True))
        zero_grad = _refusing_zero_grad(nn.Module.zero_grad)
        stack.enter_context(mock.patch.object(nn.Module, "zero_grad", zero_grad))
        for owner, name in OTHERS:
            refusing = _refusing(getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, refusing))
        saving: Any = torch.autograd.graph.saved_tensors_hooks
        enter = _enter_saving(saving.__enter__)
        stack.enter_context(mock.patch.object(saving, "__enter__", enter))
        yield


def _enter_saving(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """In place of the entry of torch.autograd.graph.saved_tensors_hooks. Raises TraceError."""
    saving = torch.autograd.graph.saved_tensors_hooks

    def enter(context: Any) -> None:
        line = _line_of_others()
        # Torch's own kinds, as save_on_cpu, give back what they were given.
        own = type(context) is saving or not type(context).__module__.startswith("torch.")
        if line and own:
            raise TraceError(
                f"the model's forward packs what backward needs with {named(context.pack_hook)} "
                f"({line}), which a traced graph leaves out; remove the saved_tensors_hooks, and "
                "let stages recompute instead (recompute: in the job file)"
            )
        original(context)

    return enter


def _register_hook(tensor: torch.Tensor, hook: Any) -> Any:
    """In place of Tensor.register_hook."""
    raise TraceError(
        f"the model's forward registers {named(hook)} as a hook for a gradient, which a traced "
        "graph leaves out; remove it, or do the same to the value with torch's operators or in a "
        "torch.autograd.Function"
    )


def _grad_fn(tensor: torch.Tensor) -> Any:
    """In place of Tensor.grad_fn. Raises TraceError where other code than torch's reads it."""
    line = _line_of_others()
    if line:
        raise TraceError(
            f"the model's forward reads grad_fn ({line}), and a plan has other gradient functions, "
            "without hooks; remove the read, and ask self.training for the mode"
        )
    original: Any = torch._C.TensorBase.grad_fn
    return original.__get__(tensor)


# What else changes parameters, or operators, past a trace: called by other code than torch's.
OTHERS: tuple[tuple[Any, str], ...] = (
    (nn.Module, "requires_grad_"),
    (TorchDispatchMode, "__enter__"),
)


def _refusing(original: Callable[..., Any]) -> Callable[..., Any]:
    """In place of one of `OTHERS`."""

    @functools.wraps(original)
    def called(owner: Any, *args: Any, **kwargs: Any) -> Any:
        own = not isinstance(owner, TorchDispatchMode) or not _is_machinery(type(owner))
        line = _line_of_others() if own and not _changes_nothing(original, owner, args) else ""
        if line:
            raise TraceError(
                f"the model's forward calls {original.__qualname__} ({line}), which a traced graph "
                "leaves out; do that once, in the factory, or between steps in a loop of your own"
            )
        return original(owner, *args, **kwargs)

    return called


def _changes_nothing(original: Callable[..., Any], owner: Any, args: Sequence[Any]) -> bool:
    """Whether a module's parameters have the flag already."""
    if original.__name__ != "requires_grad_":
        return False
    wanted = bool(args[0]) if args else True
    return all(parameter.requires_grad == wanted for parameter in owner.parameters())


def _is_machinery(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in ("torch", "pipecut")


def _requires_grad(tensor: torch.Tensor, requires_grad: bool = True) -> torch.Tensor:
    """In place of Tensor.requires_grad_. Raises TraceError where a parameter's flag changes."""
    changes = tensor.requires_grad != requires_grad
    line = _line_of_others() if changes and isinstance(tensor, nn.Parameter) else ""
    if line:
        raise TraceError(
            f"the model's forward turns a parameter's gradient on or off ({line}), and a plan's "
            "parameters are trained or frozen throughout; do it in the factory, or use "
            "parameter.detach() where no gradient is to come"
        )
    torch._C.TensorBase.requires_grad_(tensor, requires_grad)
    return tensor


def _grad(tensor: torch.Tensor) -> Any:
    """In place of Tensor.grad. Raises TraceError where a forward reads a parameter's."""
    _refuse_gradient(tensor, _line_of_others(), "reads")
    original: Any = torch._C.TensorBase.grad
    return original.__get__(tensor)


def _refusing_zero_grad(original: Callable[..., Any]) -> Callable[..., Any]:
    """In place of Module.zero_grad. Raises TraceError where a forward calls it."""

    @functools.wraps(original)
    def zero_grad(module: nn.Module, *args: Any, **kwargs: Any) -> None:
        for parameter in module.parameters():
            _refuse_gradient(parameter, _line_of_others(), "drops")
        original(module, *args, **kwargs)

    return zero_grad


def _set_grad(tensor: torch.Tensor, value: torch.Tensor | None) -> None:
    """In place of an assignment to Tensor.grad. Raises TraceError for a parameter's."""
    _refuse_gradient(tensor, _line_of_others(), "assigns")
    original: Any = torch._C.TensorBase.grad
    original.__set__(tensor, value)


def _refuse_gradient(tensor: torch.Tensor, line: str, does: str) -> None:
    if line and isinstance(tensor, nn.Parameter):
        raise NotEvenOpaque(
            f"the model's forward {does} the gradient of a parameter ({line}), and a plan runs "
            "forwards and backwards of other microbatches between; do that between pipe.step and "
            "optimizer.step in a loop of your own"
        )


def _data(tensor: torch.Tensor) -> torch.Tensor:
    """In place of Tensor.data."""
    original: Any = torch._C.TensorBase.data
    data: torch.Tensor = tensor.detach() if _line_of_others() else original.__get__(tensor)
    return data


def _set_data(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """In place of an assignment. Raises TraceError where other code than torch's makes it."""
    line = _line_of_others()
    if line:
        raise TraceError(
            f"the model's forward assigns to the .data of a tensor ({line}), which a plan does not "
            "carry on; compute another tensor, or write to parameters between steps in a loop of "
            "your own"
        )
    original: Any = torch._C.TensorBase.data
    original.__set__(tensor, value)


def _line_of_others() -> str:
    """`file:line` of the code that asks for an attribute; "" where that is torch's."""
    frame = sys._getframe(2)
    file = frame.f_code.co_filename
    return "" if file.startswith(MAY_READ_GRAD_FN) else f"{file}:{frame.f_lineno}"


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
