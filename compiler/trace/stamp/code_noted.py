"""Code that runs for a layer, beside that of packages whose own state matters to nobody."""

import gc
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    MethodDescriptorType,
    MethodWrapperType,
    WrapperDescriptorType,
)
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload, OpOverloadPacket
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves

from pipecut.compiler.trace.rehearse.own_code import is_known
from pipecut.compiler.trace.stamp.same_value import BY_VALUE, PLAIN

# Ways past what is watched: where code has a module, to its attributes and to which one it is.
OF_MODULES = {"__dict__", "vars", "__getattribute__", "id", "hash", "repr"}
# Anywhere, to who calls, and to names that are made while it runs.
ANYWHERE = {"_getframe", "currentframe", "globals", "locals", "get_ident"}
# Namespaces of operators whose code is torch's.
OF_TORCH = ("aten", "prims")
# Functions that are no Python, as torch.add, Tensor.add, Tensor.__getitem__ and Tensor.shape.
IN_C = (BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType, MethodWrapperType)
TENSORS = (torch.Tensor, nn.Parameter, FakeTensor)


class CodeNoted:
    """Code that ran for a layer, but known packages', and the globals that it ran with."""

    def __init__(self) -> None:
        self.ran: dict[CodeType, Mapping[str, Any]] = {}
        # By the code's id, since a hash of code takes longer; it is kept, so that no other gets it.
        self._known: dict[int, tuple[CodeType, Mapping[str, Any]]] = {}
        self.past_watching = ""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around a layer's forward."""
        before, collects = sys.getprofile(), gc.isenabled()
        # A collection calls gc.callbacks in the middle of the layer, which are none of its code.
        gc.disable()
        sys.setprofile(self._note)
        try:
            with _WithinTorch(self._note):
                yield
        finally:
            sys.setprofile(before)
            if collects:
                gc.enable()

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        code, held = frame.f_code, frame.f_globals
        if self._known.get(id(code), (None, None))[1] is held:
            return
        if is_known(held.get("__name__")):
            self._known[id(code)] = code, held
            return
        self.ran[code] = held
        past = ANYWHERE.intersection(code.co_names)
        if any(isinstance(held, nn.Module) for held in frame.f_locals.values()):
            past |= OF_MODULES.intersection(code.co_names)
        if past:
            self.past_watching = f"its code uses {min(past)}"

    @property
    def names(self) -> set[str]:
        """All names of globals and attributes that the code has."""
        return {name for code in self.ran for name in code.co_names}


class _WithinTorch(TorchFunctionMode):
    """Notes nothing while a function of torch's runs, which makes thousands of calls within torch.

    Unless it is given code of others, or others watch it.
    """

    def __init__(self, note: Callable[[FrameType, str, Any], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not (_is_of_torch(func) and _is_unwatched() and _has_no_code((args, kwargs))):
            return func(*args, **(kwargs or {}))
        sys.setprofile(None)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            sys.setprofile(self._note)


def _is_of_torch(function: Any) -> bool:
    if isinstance(function, OpOverload | OpOverloadPacket):
        return str(function).partition(".")[0] in OF_TORCH
    if isinstance(function, FunctionType):
        # A wrapper of torch's may wrap anything.
        wrapped = inspect.unwrap(function)
        return is_known(wrapped.__module__) and is_known(function.__globals__.get("__name__"))
    return isinstance(function, IN_C)


def _is_unwatched() -> bool:
    of_functions: Any = _get_current_function_mode_stack
    of_operators: Any = _get_current_dispatch_mode_stack
    return all(is_known(type(mode).__module__) for mode in (*of_functions(), *of_operators()))


def _has_no_code(arguments: Any) -> bool:
    """Whether arguments are tensors and plain values, of which no method is another's."""
    allowed = (*PLAIN, *BY_VALUE, *TENSORS, torch.SymInt, torch.SymFloat, torch.SymBool, slice)
    return all(type(leaf) in allowed for leaf in tree_leaves(arguments))
