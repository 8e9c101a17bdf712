"""Whether two attributes of equal modules are certainly the same to the code that reads them."""

import functools
from collections.abc import Callable
from typing import Any

import torch

PLAIN = (bool, int, float, complex, str, bytes, type(None))
BY_VALUE = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)
# Values within values that are looked at before two count as different.
DEPTH = 6


class _Ordinary:
    """An object that holds nothing but attributes."""


def same_value(value: Any, other: Any, depth: int = DEPTH) -> bool:
    """Whether two values are one object, or equal in all that they contain.

    False for what cannot be compared, such as tensors, functions and objects with hidden state.
    """
    if value is other:
        return True
    if type(value) is not type(other) or depth == 0:
        return False
    if isinstance(value, PLAIN):
        # NaN equals nothing; 0.0 equals -0.0.
        return repr(value) == repr(other)
    if isinstance(value, BY_VALUE):
        return bool(value == other)
    same: Callable[[Any, Any], bool] = functools.partial(same_value, depth=depth - 1)
    if type(value) in (tuple, list):
        return len(value) == len(other) and all(map(same, value, other))
    if type(value) is dict:
        return list(value) == list(other) and all(map(same, value.values(), other.values()))
    if type(value) in (set, frozenset):
        return value == other and all(isinstance(item, PLAIN) for item in value)
    if isinstance(value, functools.partial):
        return same(_parts(value), _parts(other))
    if type(value).__basicsize__ == _Ordinary.__basicsize__ and hasattr(value, "__dict__"):
        return same(vars(value), vars(other))
    return False


def _parts(partial: "functools.partial[Any]") -> tuple[Any, ...]:
    return partial.func, partial.args, partial.keywords
