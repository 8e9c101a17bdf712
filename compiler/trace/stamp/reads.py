"""Which attributes, of those in which equal layers differ, a layer's forward reads."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from torch import nn

from pipecut.compiler.trace.stamp.layers import EqualLayers
from pipecut.compiler.trace.watch.attributes import MISSING, Place


class DifferingReads:
    """Watches reads of attributes during the forward of one layer at a time."""

    def __init__(self, sets: Iterable[EqualLayers]) -> None:
        self._read: set[Place] | None = None
        # A tracer stands proxies for modules, which share the dictionary of attributes.
        self._place_of: dict[tuple[int, str], Place] = {}
        self._owners: set[tuple[type, str]] = set()
        for equal in sets:
            for layer in equal.layers:
                for place in equal.differing:
                    module = layer.modules[place.path]
                    self._place_of[id(vars(module)), place.name] = place
                    self._owners.add((type(module), place.name))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around a trace."""
        with ExitStack() as stack:
            for owner, name in self._owners:
                watching = self._property(name, getattr(owner, name, MISSING))
                stack.enter_context(mock.patch.object(owner, name, watching, create=True))
            yield

    @contextmanager
    def noted(self) -> Iterator[set[Place]]:
        """Around a layer's forward: what it reads, by place within the layer."""
        read: set[Place] = set()
        self._read = read
        try:
            yield read
        finally:
            self._read = None

    def _property(self, name: str, default: Any) -> property:
        """In place of a class's attribute, `default` where the class itself has one."""

        def read(module: nn.Module) -> Any:
            held = vars(module)
            place = self._place_of.get((id(held), name))
            if place is not None and self._read is not None:
                self._read.add(place)
            value = held.get(name, default)
            if value is MISSING:
                raise AttributeError(f"'{type(module).__name__}' object has no attribute '{name}'")
            return value

        def write(module: nn.Module, value: Any) -> None:
            vars(module)[name] = value

        def remove(module: nn.Module) -> None:
            vars(module).pop(name)

        return property(read, write, remove)
