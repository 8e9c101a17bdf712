"""Plain attributes of a model's modules during one forward: who reads them first, and what changes.

A plan holds one forward only. So an attribute that a forward changes, and that the next forward
reads, matters.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# Attributes that every module has.
MODULES_OWN = frozenset((*vars(nn.Module()), "training"))
# What torch's recurrent layers keep of their own parameters, which the tracer replaces.
FLAT_WEIGHTS = frozenset(("_flat_weights", "_flat_weight_refs"))
# Compared by value; anything else by identity.
PLAIN = (bool, int, float, complex, str, bytes)
MISSING = object()


@dataclass(frozen=True, order=True)
class Place:
    """What a module holds under a name: `path` is the module's FQN."""

    path: str
    name: str

    def __str__(self) -> str:
        return ".".join(filter(None, (self.path, self.name)))


@dataclass(frozen=True)
class Copied:
    """An attribute's value; of a list, dict or set also what it contained."""

    value: Any
    contents: Any = None

    @staticmethod
    def of(value: Any) -> "Copied":
        """A copy that `differs` and `restored` compare with."""
        return Copied(value, value.copy() if type(value) in (list, dict, set) else None)

    def restored(self) -> Any:
        """The value with what it contained."""
        if self.contents is not None and self.differs(self.value):
            self.value.clear()
            refill = self.value.extend if isinstance(self.value, list) else self.value.update
            refill(self.contents)
        return self.value

    def differs(self, value: Any) -> bool:
        """Whether an attribute that has a value now has changed."""
        before = self.contents
        if isinstance(self.value, PLAIN) and type(self.value) is type(value):
            return bool(self.value != value)
        if self.value is not value or before is None:
            return self.value is not value
        if isinstance(value, dict):
            same_keys = before.keys() == value.keys()
            return not same_keys or any(before[key] is not value[key] for key in value)
        return len(before) != len(value) or any(
            first is not second for first, second in zip(before, value, strict=True)
        )


def attributes_of(modules: Mapping[str, nn.Module]) -> dict[Place, Any]:
    """All attributes that are no parameter, buffer or module."""
    return {
        Place(path, name): value
        for path, module in modules.items()
        for name, value in vars(module).items()
        if name not in MODULES_OWN and not (name in FLAT_WEIGHTS and isinstance(module, nn.RNNBase))
    }


@dataclass
class AttributeReads:
    """Attributes that a forward reads before it writes them, and tensors that depend on data.

    Only attributes in `places` are watched; `first_reads` has the line of each first read.
    """

    modules: Mapping[str, nn.Module]
    places: Iterable[Place]
    first_reads: dict[Place, str] = field(default_factory=dict)
    # Tensors are kept by id, beside themselves, so that no other tensor takes the id.
    dependent: dict[int, torch.Tensor] = field(default_factory=dict)

    @contextmanager
    def watched(self) -> Iterator["AttributeReads"]:
        """Around a forward."""
        if not self.places:
            yield self
            return
        written: set[Place] = set()
        with ExitStack() as stack:
            owners = {(type(self.modules[place.path]), place.name) for place in self.places}
            for owner, name in owners:
                default = getattr(owner, name, MISSING)
                watching = self._property(name, default, written)
                stack.enter_context(mock.patch.object(owner, name, watching, create=True))
            stack.enter_context(_Dependent(self))
            yield self

    def depends_on_data(self, value: Any) -> bool:
        """Whether a value may be another one for another batch, or after a step."""
        leaves = tree_leaves(value)
        return any(id(t) in self.dependent for t in leaves if isinstance(t, torch.Tensor))

    def _property(self, name: str, default: Any, written: set[Place]) -> property:
        """In place of an attribute of a class, `default` where the class itself has one."""
        place_of = {
            id(self.modules[place.path]): place for place in self.places if place.name == name
        }

        def read(module: nn.Module) -> Any:
            place = place_of.get(id(module))
            frame = sys._getframe(1)
            if place is not None and place not in written and place not in self.first_reads:
                self.first_reads[place] = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            value = vars(module).get(name, default)
            if value is MISSING:
                raise AttributeError(f"'{type(module).__name__}' object has no attribute '{name}'")
            return value

        def write(module: nn.Module, value: Any) -> None:
            place = place_of.get(id(module))
            if place is not None:
                written.add(place)
            vars(module)[name] = value

        def remove(module: nn.Module) -> None:
            vars(module).pop(name)

        return property(read, write, remove)


class _Dependent(TorchFunctionMode):
    """Notes what is computed from tensors that no function made: the batch, and parameters."""

    def __init__(self, reads: AttributeReads) -> None:
        super().__init__()
        self.reads = reads
        self.computed: dict[int, torch.Tensor] = {}
        self.buffers = {
            id(buffer)
            for module in reads.modules.values()
            for buffer in module._buffers.values()
            if buffer is not None
        }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        dependent = any(self._depends(t) for t in leaves if isinstance(t, torch.Tensor))
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.computed[id(tensor)] = tensor
                if dependent:
                    self.reads.dependent[id(tensor)] = tensor
        return result

    def _depends(self, tensor: torch.Tensor) -> bool:
        constant = id(tensor) in self.computed or id(tensor) in self.buffers
        return id(tensor) in self.reads.dependent or not constant
