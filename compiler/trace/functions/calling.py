"""Calls of a model's own torch.autograd.Functions while it is traced: each is one operator.

A trace goes through a Function's forward, and knows nothing of its backward. So `apply` is
replaced: where the model calls it, the trace gets an operator that stands for the whole call.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.autograd.function import _SingleLevelFunction

from pipecut.compiler.operators.autograd_functions import AutogradFunction, NotImportable
from pipecut.compiler.trace.functions.arguments import NoLiteral, Written, read_values
from pipecut.compiler.trace.lower.dimensions import NeedsFixedBatch
from pipecut.errors import TraceError
from pipecut.model.functions import running_user_frame, user_frame

# Functions of torch's own machinery, which a trace goes through or does not see.
MACHINERY = tuple(
    f"torch.{part}" for part in ("_", "utils.", "fx.", "export.", "nested.", "autograd.")
)
MACHINERY = (*MACHINERY, "torch.distributed.", "pipecut.")

# A remedy for each Function that cannot be an operator.
OPAQUE = "name the module that calls it under model.opaque, so that it runs as it is"

_LIBRARY: Any = torch.library.Library("pipecut_function", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define("call(str target, str arguments, Tensor[] tensors, SymInt[] sizes) -> Tensor[]")
# Of a call that was run, by target and arguments: which of its results are tensors, in order; None
# where it returns one tensor.
_returned: dict[tuple[str, str], tuple[bool, ...] | None] = {}
# Whether code within a Function's forward runs, whose operators are no operators of the model.
_within = [False]


def run(
    target: str, arguments: str, tensors: Sequence[torch.Tensor], sizes: Sequence[Any]
) -> list[torch.Tensor]:
    """Call a Function; its results as a list, with an empty tensor for each None.

    Raises NeedsFixedBatch where its code fails, TraceError for results of other kinds.
    """
    function = AutogradFunction.of_target(target)
    assert function is not None
    try:
        with plainly():
            result = function.apply()(*read_values(arguments, tensors, sizes))
    except TraceError:
        raise
    except Exception as error:
        # With a batch size that is a number it may run.
        raise NeedsFixedBatch(
            f"{function}, a torch.autograd.Function, cannot run on tensors without values: "
            f"{type(error).__name__} at {user_frame(error)}: {_first_line(error)}; write it with "
            f"operators of torch or of torch.library, or {OPAQUE}"
        ) from error
    results = result if isinstance(result, tuple) else (result,)
    for part in results:
        if not (part is None or (isinstance(part, torch.Tensor) and _is_dense(part))):
            kind = str(part.layout) if isinstance(part, torch.Tensor) else type(part).__name__
            raise TraceError(
                f"{function}, a torch.autograd.Function, returns a {kind}, which no stage can hand "
                "on; let it return dense tensors only, and compute the rest beside it"
            )
    is_tensor = tuple(part is not None for part in results)
    _returned[target, arguments] = is_tensor if isinstance(result, tuple) else None
    return [torch.empty(0) if part is None else part for part in results]


def returns_single(target: str, arguments: str) -> bool:
    """Whether a call that was run returns a tensor, not a tuple."""
    return _returned[target, arguments] is None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided


def _like_results(
    target: str, arguments: str, tensors: Sequence[torch.Tensor], sizes: Sequence[Any]
) -> list[torch.Tensor]:
    """What the traced operator makes: tensors of their own, which share no storage."""
    with torch.no_grad():
        results = run(target, arguments, tensors, sizes)
    return [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype) for t in results]


def _unreal(*_: Any) -> Any:
    raise RuntimeError("the call of an autograd.Function has values in a stage only")


_LIBRARY.impl("call", _unreal, "CPU")
torch.library.register_fake("pipecut_function::call", _like_results, lib=_LIBRARY)
CALL: Any = torch.ops.pipecut_function.call.default


@contextmanager
def plainly() -> Iterator[None]:
    """Let Functions run as they are."""
    before, _within[0] = _within[0], True
    try:
        yield
    finally:
        _within[0] = before


@contextmanager
def functions_as_operators(model: nn.Module) -> Iterator[None]:
    """Around a forward. Raises TraceError for a Function that stage code could not call.

    In eval mode, where no backward matters, a trace goes through such a one.
    """
    original: Any = vars(torch._C._FunctionBase)["apply"]

    def apply(function: Any, /, *args: Any, **kwargs: Any) -> Any:
        own = not function.__module__.startswith(MACHINERY)
        if own and not _within[0]:
            try:
                return _call(function, args, kwargs)
            except TraceError:
                if model.training:
                    raise
        return original.__get__(None, function)(*args, **kwargs)

    def within_transform(function: Any, *_: Any, **__: Any) -> Any:
        raise _refusal(function, "within torch.func or vmap, where no stage can call it")

    replaced = mock.patch.object(_SingleLevelFunction, "apply", classmethod(apply), create=True)
    transformed = mock.patch("torch.autograd.function.custom_function_call", within_transform)
    with replaced, transformed:
        yield


def _call(function: Any, args: Sequence[Any], kwargs: Any) -> Any:
    """The traced call. Raises TraceError."""
    if kwargs:
        raise _refusal(function, f"with {next(iter(kwargs))} by its name; give it by position")
    try:
        known, written = AutogradFunction.of(function), Written.of(args)
    except NotImportable as why:
        raise _refusal(
            function,
            f"which stage code cannot import: {why}; define it at the top of a module that the "
            f"model's code imports, or {OPAQUE}",
        ) from None
    except NoLiteral as kind:
        raise _refusal(
            function,
            f"with a {kind}, and stage code can give it tensors, numbers, text and lists, tuples "
            "and dictionaries of these only; give it what it needs of that by itself, or "
            f"{OPAQUE}",
        ) from None
    results: list[torch.Tensor] = CALL(known.target, written.text, written.tensors, written.sizes)
    is_tensor = _returned[known.target, written.text]
    if is_tensor is None:
        return results[0]
    return tuple(t if kept else None for t, kept in zip(results, is_tensor, strict=True))


def _refusal(function: Callable[..., Any], how: str) -> TraceError:
    name = f"{function.__module__}.{function.__qualname__}"
    return TraceError(
        f"the model calls {name}, a torch.autograd.Function,{users_line(' ({})')} {how}"
    )


def users_line(pattern: str) -> str:
    """The line of the user's code that runs now, put into a pattern; "" if none does."""
    frame = running_user_frame(sys._getframe(1))
    return pattern.format(f"{frame.f_code.co_filename}:{frame.f_lineno}") if frame else ""
