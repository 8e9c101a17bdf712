"""What a layer's forward could leave behind beside its results, seen from outside."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from pipecut.compiler.trace.stamp.same_value import PLAIN
from pipecut.compiler.trace.watch.attributes import MISSING, Copied, attributes_of

# What forwards do not change, or what torch itself does while it traces.
UNCHANGING = (*PLAIN, nn.Module, torch.Tensor, FunctionType, ModuleType, type)


@dataclass(frozen=True)
class _Holder:
    """Something that holds values by name.

    `before` is what a value is called for people, up to its name; `owner` the identity of what
    holds them, which others may be called like.
    """

    before: str
    owner: int
    held: Mapping[Any, Any]

    def name(self, key: Any) -> str:
        """What one of its values is called."""
        return f"{self.before}{key}'"


@dataclass(frozen=True)
class Surroundings:
    """Attributes, buffers, globals and objects that code of a model can reach, by who holds them.

    `copies` have what is in lists, dicts and sets, by the holder's number and the name.
    """

    holders: tuple[_Holder, ...]
    copies: Mapping[tuple[int, Any], Copied]

    @staticmethod
    def of(modules: Mapping[str, nn.Module]) -> "Surroundings":
        """What it is now."""
        holders = tuple(_holders(modules))
        copies = {
            (number, key): Copied.of(value)
            for number, holder in enumerate(holders)
            for key, value in holder.held.items()
            if type(value) in (list, dict, set)
        }
        return Surroundings(holders, copies)

    def change(self, modules: Mapping[str, nn.Module]) -> str:
        """What is not any more as it was; "" where all is."""
        now = {(holder.before, holder.owner): holder for holder in _holders(modules)}
        for number, holder in enumerate(self.holders):
            other = now.pop((holder.before, holder.owner), None)
            held = other.held if other is not None else {}
            for key in {**holder.held, **held}:
                before = holder.held.get(key, MISSING)
                copied = self.copies.get((number, key)) or Copied(before)
                if key not in held or copied.differs(held[key]):
                    return holder.name(key)
        return next((new.name(next(iter(new.held))) for new in now.values() if new.held), "")


def _holders(modules: Mapping[str, nn.Module]) -> Iterator[_Holder]:
    attributes = attributes_of(modules)
    yield _Holder("'", 0, attributes)
    for place, value in attributes.items():
        if hasattr(value, "__dict__") and not isinstance(value, UNCHANGING):
            yield _Holder(f"'{place}.", id(value), dict(vars(value)))
    for path, module in modules.items():
        if module._buffers:
            yield _Holder(f"buffer '{path}.", 0, dict(module._buffers))
    classes = {cls for module in modules.values() for cls in type(module).__mro__}
    own = {cls for cls in classes if not cls.__module__.startswith(("torch.", "builtins"))}
    for cls in own:
        yield _Holder(f"'{cls.__qualname__}.", id(cls), dict(vars(cls)))
    for name in {cls.__module__ for cls in own} & sys.modules.keys():
        yield _Holder(f"'{name}.", 0, dict(vars(sys.modules[name])))
