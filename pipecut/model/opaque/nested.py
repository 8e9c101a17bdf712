"""Tensors and numbers in what a module takes and returns: in tuples, dicts, dataclasses."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch

# What has a value that code can be told.
PLAIN = (type(None), bool, int, float, str, complex)


class Leaf:
    """What derives from it is a leaf, though it be a dataclass."""


def _has_fields(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type | Leaf)


def leaves_in(value: Any) -> Iterator[Any]:
    """What is neither tuple, list, dict nor dataclass, in order."""
    if _has_fields(value):
        members = [getattr(value, field.name) for field in fields(value)]
    elif isinstance(value, dict):
        members = list(value.values())
    elif isinstance(value, list | tuple):
        members = list(value)
    else:
        yield value
        return
    for member in members:
        yield from leaves_in(member)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in a value, in order; one that is there twice comes twice."""
    return [leaf for leaf in leaves_in(value) if isinstance(leaf, torch.Tensor)]


def as_text(leaf: Any) -> str:
    """A leaf that is no tensor, by kind and value: `int 3`, `bool True`; other objects by kind."""
    kind = type(leaf).__name__
    return f"{kind} {leaf!r}" if type(leaf) in PLAIN else kind


def nesting_in(value: Any, tensor: type) -> Iterator[str]:
    """How a value is nested, as `nesting {'x': tensor, 'y': value}`.

    Nothing for a tensor by itself and for tensors side by side. `tensor` is the class of tensors.
    """
    members = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(member, tensor) for member in members):
        yield f"nesting {_nesting(value, tensor)}"


def _nesting(value: Any, tensor: type) -> str:
    if _has_fields(value):
        members = [_nesting(getattr(value, field.name), tensor) for field in fields(value)]
        return f"{type(value).__name__}({', '.join(members)})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_nesting(m, tensor)}' for key, m in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"({', '.join(_nesting(member, tensor) for member in value)})"
    return "tensor" if isinstance(value, tensor) else "value"


def with_leaves(value: Any, replaced: Callable[[Any], Any]) -> Any:
    """The same nesting with other leaves."""
    if _has_fields(value):
        return _other_dataclass(value, replaced)
    if isinstance(value, dict):
        made = copy.copy(value)
        made.update({key: with_leaves(member, replaced) for key, member in value.items()})
        return made
    if isinstance(value, list | tuple):
        members = [with_leaves(member, replaced) for member in value]
        # A named tuple's class may look at what it is made of, as that of packed sequences does.
        if hasattr(value, "_fields"):
            new: Any = tuple.__new__
            return new(type(value), members)
        return type(value)(members)
    return replaced(value)


def _other_dataclass(value: Any, replaced: Callable[[Any], Any]) -> Any:
    members = {f.name: with_leaves(getattr(value, f.name), replaced) for f in fields(value)}
    if isinstance(value, dict):
        # transformers' outputs are both, and have only what is not None as a dict.
        return type(value)(**members)
    made = copy.copy(value)
    for name, member in members.items():
        object.__setattr__(made, name, member)
    return made
