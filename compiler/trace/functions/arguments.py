"""Arguments of an autograd.Function's call as text that a traced operator can take.

Tensors and sizes in them are numbered, and go to the operator by themselves.
"""

import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pipecut.compiler.graph import Literal, SizeOf, TupleOf
from pipecut.device.types import is_traced_device

PLAIN = (type(None), bool, int, float, complex, str)
CODE = (torch.dtype, torch.layout, torch.memory_format)


class NoLiteral(Exception):
    """An argument that stage code cannot say; the text names its class."""


@dataclass
class Written:
    """Arguments as `text`, with what the text numbers."""

    text: str = ""
    tensors: list[torch.Tensor] = field(default_factory=list)
    sizes: list[torch.SymInt] = field(default_factory=list)

    @staticmethod
    def of(args: Sequence[Any]) -> "Written":
        """Raises NoLiteral."""
        written = Written()
        written.text = repr([written._form(argument) for argument in args])
        return written

    def _form(self, value: Any) -> tuple[str, Any]:
        match value:
            case torch.Tensor():
                self.tensors.append(value)
                return "tensor", len(self.tensors) - 1
            case torch.SymInt():
                self.sizes.append(value)
                return "size", len(self.sizes) - 1
            case float() if not math.isfinite(value):
                return "float", repr(value)
            case torch.device() if is_traced_device(value.type):
                return "device", None
        if type(value) in PLAIN:
            return "plain", value
        if isinstance(value, CODE):
            return "code", str(value)
        if type(value) in (list, tuple, torch.Size):
            return type(value).__name__, [self._form(item) for item in value]
        if type(value) in (dict, set, frozenset, bytes) and _is_literal(value):
            return "code", repr(value)
        raise NoLiteral(type(value).__name__)


def _is_literal(value: Any) -> bool:
    """Whether Python reads an equal value where its repr stands."""
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError):
        return False


@dataclass(frozen=True)
class Read:
    """How the arguments that a text says are made."""

    tensor: Callable[[int], Any]
    size: Callable[[int], Any]
    device: Any
    kinds: dict[str, Callable[..., Any]]
    code: Callable[[str], Any]

    def all(self, text: str) -> list[Any]:
        """The arguments in order."""
        return [self._of(kind, value) for kind, value in ast.literal_eval(text)]

    def _of(self, kind: str, value: Any) -> Any:
        match kind:
            case "tensor":
                return self.tensor(value)
            case "size":
                return self.size(value)
            case "float":
                return float(value)
            case "device":
                return self.device
            case "code":
                return self.code(value)
            case "plain":
                return value
        return self.kinds[kind](self._of(*item) for item in value)


def read_values(text: str, tensors: Sequence[torch.Tensor], sizes: Sequence[Any]) -> list[Any]:
    """The arguments of a call."""
    kinds: dict[str, Callable[..., Any]] = {"list": list, "tuple": tuple, "Size": torch.Size}
    device = tensors[0].device if tensors else torch.get_default_device()
    return Read(tensors.__getitem__, sizes.__getitem__, device, kinds, _value_of).all(text)


def read_arguments(text: str, tensors: Sequence[Any], sizes: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments of the graph's operator."""
    kinds: dict[str, Callable[..., Any]] = {"list": tuple, "tuple": TupleOf, "Size": SizeOf}
    read = Read(tensors.__getitem__, sizes.__getitem__, Literal("device"), kinds, Literal)
    return tuple(read.all(text))


def _value_of(code: str) -> Any:
    if code.startswith("torch."):
        return getattr(torch, code.removeprefix("torch."))
    return ast.literal_eval(code)
