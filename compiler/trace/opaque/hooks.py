"""Hooks of an opaque module: they are part of its call, so its stand-in has none."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch import nn

HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    "_forward_pre_hooks_with_kwargs",
)


@contextmanager
def replaced_call(module: nn.Module, forward: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Meanwhile the module calls `forward` and no hooks; yields its own call, with its hooks."""
    own: dict[str, Any] = {name: getattr(module, name) for name in ("forward", *HOOKS)}

    def own_call(*args: Any, **kwargs: Any) -> Any:
        with mock.patch.multiple(module, **own):
            return module(*args, **kwargs)

    instead: dict[str, Any] = {"forward": forward} | {name: OrderedDict() for name in HOOKS}
    with mock.patch.multiple(module, **instead):
        yield own_call
