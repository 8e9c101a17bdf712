"""What a model's forward leaves behind in its modules, beside what it writes in place.

A buffer that is assigned (`self.mean = ...`) is written: reads see a copy, as they see another tensor in the model itself, and
what was assigned last goes into the buffer. A plain attribute that changes is refused where the next forward would read it:
a plan holds one forward only. What is filled once and does not depend on the batch or a parameter, as a mask, may stay.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from pipecut.errors import TraceError

OWN = frozenset((*vars(nn.Module()), "training"))
# What torch's recurrent layers keep of their own parameters, which the tracer puts others in place of.
FLAT = frozenset(("_flat_weights", "_flat_weight_refs"))
PLAIN = (bool, int, float, complex, str, bytes)
# A module's place, and the name of what it holds.
Place = tuple[str, str]


class ModuleState:
    """Watches one forward of a model at a time; `again` where another trace is needed to know what the first one meant."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = dict(model.named_modules())
        self.assigned: set[Place] = set()
        self.changing: set[Place] = set()
        self.again = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around a forward. Raises TraceError."""
        self.again = False
        buffers = self._buffers()
        attributes = {place: _Copied.of(value) for place, value in self._attributes().items()}
        copies = {place: buffers[place].clone() for place in self.assigned if place in buffers}
        versions = {place: copy._version for place, copy in copies.items()}
        for (path, name), copy in copies.items():
            self.modules[path]._buffers[name] = copy
        with _Reads(self.modules, self.changing).watched() as reads:
            try:
                yield
            except BaseException:
                self._put_back(buffers, attributes)
                raise
        try:
            self._write_back(buffers, copies, versions)
            self._refuse(attributes, reads)
        finally:
            self._put_back(buffers, attributes)

    def _buffers(self) -> dict[Place, torch.Tensor]:
        return {
            (path, name): buffer
            for path, module in self.modules.items()
            for name, buffer in module._buffers.items()
            if buffer is not None
        }

    def _write_back(
        self,
        buffers: dict[Place, torch.Tensor],
        copies: dict[Place, torch.Tensor],
        versions: dict[Place, int],
    ) -> None:
        now = {place: self.modules[place[0]]._buffers.get(place[1]) for place in buffers}
        written = {}
        for place, tensor in now.items():
            same = tensor is copies.get(place, buffers[place])
            if same and (place not in copies or copies[place]._version == versions[place]):
                continue
            written[place] = _fitting(place, tensor, buffers[place])
        if not set(written) <= self.assigned:
            self.assigned |= set(written)
            self.again = True
        # One may be assigned what another one holds.
        values = {place: tensor.detach().clone() for place, tensor in written.items()}
        with torch.no_grad():
            for place, value in values.items():
                buffers[place].copy_(value)

    def _attributes(self) -> dict[Place, Any]:
        return {
            (path, name): value
            for path, module in self.modules.items()
            for name, value in vars(module).items()
            if name not in OWN and not (name in FLAT and isinstance(module, nn.RNNBase))
        }

    def _refuse(self, before: dict[Place, "_Copied"], reads: "_Reads") -> None:
        """Raises TraceError for an attribute that changed and was read before."""
        now = self._attributes()
        changed = {
            place
            for place in {*before, *now}
            if _differs(before.get(place, _Copied(None)), now.get(place))
        }
        for place in sorted(changed & set(reads.first)):
            old, new = before.get(place, _Copied(None)), now.get(place)
            if old.value is None and not reads.depends(new):
                # Filled once.
                continue
            raise TraceError(
                f"'{'.'.join(filter(None, place))}' changes from one forward to the next ({reads.first[place]} reads it), and a "
                f"plan holds one forward only; register it as a buffer, and write it in place with self.{place[1]}.copy_(...)"
            )
        if not changed <= self.changing:
            self.changing |= changed
            self.again = True

    def _put_back(self, buffers: dict[Place, torch.Tensor], before: dict[Place, "_Copied"]) -> None:
        for (path, name), buffer in buffers.items():
            self.modules[path]._buffers[name] = buffer
        for path, name in self._attributes().keys() - before.keys():
            self.modules[path].__dict__.pop(name)
        for (path, name), copied in before.items():
            self.modules[path].__dict__[name] = copied.again()


def _fitting(place: Place, value: torch.Tensor | None, buffer: torch.Tensor) -> torch.Tensor:
    name = ".".join(filter(None, place))
    if value is None or value.shape != buffer.shape or value.dtype != buffer.dtype:
        what = "None" if value is None else f"{value.dtype} {list(value.shape)}"
        raise TraceError(
            f"the model's forward assigns {what} to its buffer '{name}', which is {buffer.dtype} {list(buffer.shape)}, and a "
            f"plan's buffers keep their shape; assign one of the same shape and dtype"
        )
    return value


@dataclass
class _Reads:
    """Of some attributes, those that are read before they are written, with the line; and what depends on the batch."""

    modules: dict[str, nn.Module]
    places: set[Place]
    first: dict[Place, str] = field(default_factory=dict)
    dependent: dict[int, torch.Tensor] = field(default_factory=dict)

    @contextmanager
    def watched(self) -> Iterator["_Reads"]:
        if not self.places:
            yield self
            return
        place_of = {(id(self.modules[path]), name): (path, name) for path, name in self.places}
        written: set[Place] = set()
        with ExitStack() as stack:
            for owner, name in {(type(self.modules[path]), name) for path, name in self.places}:
                default = getattr(owner, name, None), hasattr(owner, name)
                asked = self._property(name, default, place_of, written)
                stack.enter_context(mock.patch.object(owner, name, asked, create=True))
            stack.enter_context(_Dependent(self))
            yield self

    def _property(
        self,
        name: str,
        default: tuple[Any, bool],
        place_of: dict[tuple[int, str], Place],
        written: set[Place],
    ) -> property:
        def read(module: nn.Module) -> Any:
            place = place_of.get((id(module), name))
            frame = sys._getframe(1)
            if place is not None and place not in written and place not in self.first:
                self.first[place] = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            if name in vars(module):
                return vars(module)[name]
            if default[1]:
                return default[0]
            raise AttributeError(f"'{type(module).__name__}' object has no attribute '{name}'")

        def write(module: nn.Module, value: Any) -> None:
            place = place_of.get((id(module), name))
            if place is not None:
                written.add(place)
            vars(module)[name] = value

        def remove(module: nn.Module) -> None:
            vars(module).pop(name)

        return property(read, write, remove)

    def depends(self, value: Any) -> bool:
        """Whether a value may be another one for another batch, or after a step."""
        return any(
            id(leaf) in self.dependent
            for leaf in tree_leaves(value)
            if isinstance(leaf, torch.Tensor)
        )


class _Dependent(TorchFunctionMode):
    """Notes what is computed from tensors that no function made: the batch, and parameters."""

    def __init__(self, reads: _Reads) -> None:
        super().__init__()
        self.reads = reads
        self.made: dict[int, torch.Tensor] = {}
        self.buffers = {
            id(b): b
            for module in reads.modules.values()
            for b in module._buffers.values()
            if b is not None
        }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = [
            leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, torch.Tensor)
        ]
        dependent = any(
            id(t) in self.reads.dependent or (id(t) not in self.made and id(t) not in self.buffers)
            for t in given
        )
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.made[id(tensor)] = tensor
                if dependent:
                    self.reads.dependent[id(tensor)] = tensor
        return result


@dataclass(frozen=True)
class _Copied:
    """An attribute's value, and of a container what it held."""

    value: Any
    held: Any = None

    @staticmethod
    def of(value: Any) -> "_Copied":
        return _Copied(value, value.copy() if type(value) in (list, dict, set) else None)

    def again(self) -> Any:
        """The value as it was."""
        if self.held is not None and _differs(self, self.value):
            self.value.clear()
            (self.value.extend if isinstance(self.value, list) else self.value.update)(self.held)
        return self.value


def _differs(old: _Copied, new: Any) -> bool:
    if isinstance(old.value, PLAIN) and type(old.value) is type(new):
        return bool(old.value != new)
    if old.value is not new or old.held is None:
        return old.value is not new
    if isinstance(new, dict):
        return old.held.keys() != new.keys() or any(old.held[key] is not new[key] for key in new)
    return len(old.held) != len(new) or any(a is not b for a, b in zip(old.held, new, strict=True))
