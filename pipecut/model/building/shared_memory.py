"""Tensors of a model that share memory without being one object, found while the model is built.

On meta a parameter has no memory, so its memory is noted before it goes there. Two parameters that
look at one storage, or at one NumPy array, would be two to the plan, while in the unsplit
model each changes with the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from pipecut.errors import TraceError
from pipecut.model.building.module_tensors import plain_attributes, plain_tensors
from pipecut.model.building.regions import Placed, Region, is_dense, meeting, placed, weak_storage


@dataclass(frozen=True)
class _Moved:
    """A parameter on meta, and the region of the real one that it replaced."""

    twin: nn.Parameter
    region: Region


class SharedMemory:
    """Watches parameters while a model is built, and finds which of its tensors share memory."""

    def __init__(self) -> None:
        # Parameters on meta whose real memory still lives; by id, their storage on meta.
        self.moved: list[_Moved] = []
        self.home: dict[int, StorageWeakRef] = {}
        self.pairs: list[tuple[nn.Parameter, nn.Parameter]] = []

    def note(self, real: nn.Parameter, twin: nn.Parameter) -> None:
        """Record that `twin` on meta replaces `real`."""
        if not is_dense(real):
            return
        region = Region.of(real)
        self.moved = [moved for moved in self.moved if not moved.region.gone]
        self.pairs += [(moved.twin, twin) for moved in self.moved if moved.region.meets(region)]
        self.moved.append(_Moved(twin, region))
        self.home[id(twin)] = weak_storage(twin)

    def check(self, model: nn.Module) -> None:
        """Raises TraceError where a trained parameter shares memory with another tensor."""
        named = list(model.named_parameters(remove_duplicate=False))
        # Of tied names, the first one.
        names = {id(parameter): name for name, parameter in reversed(named)}
        self._check_parameters(model, names)
        trained = self._trained_regions(model, names)
        held = [("buffer", name, tensor) for name, tensor in model.named_buffers()]
        held += [("attribute", name, tensor) for name, tensor in _attributes(model)]
        for kind, name, tensor in held:
            region = Region.of(tensor) if is_dense(tensor) else None
            for parameter in trained if region is not None else ():
                if region is not None and region.meets(parameter.region):
                    raise _shared_with(kind, name, names[id(parameter.tensor)])

    def _check_parameters(self, model: nn.Module, names: dict[int, str]) -> None:
        noted = [pair for pair in self.pairs if all(self._stayed(p, names) for p in pair)]
        for first, second in (*noted, *meeting(placed(model.named_parameters()))):
            if first is not second and (first.requires_grad or second.requires_grad):
                raise _two_parameters(names[id(first)], names[id(second)])

    def _trained_regions(self, model: nn.Module, names: dict[int, str]) -> list[Placed]:
        """Trained parameters where they are, and where they were before they went to meta."""
        before = [
            Placed(moved.twin, moved.region)
            for moved in self.moved
            if not moved.region.gone and self._stayed(moved.twin, names)
        ]
        everywhere = (*before, *placed(model.named_parameters()))
        return [item for item in everywhere if item.tensor.requires_grad]

    def _stayed(self, twin: torch.Tensor, names: dict[int, str]) -> bool:
        """Whether a parameter is in the model, with the memory that it got on meta."""
        return id(twin) in names and bool(weak_storage(twin).cdata == self.home[id(twin)].cdata)


def _attributes(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors in plain attributes of modules.

    Not those that hooks compute from a parameter before each forward, as spectral_norm does.
    """
    for path, module in model.named_modules():
        for name, value in plain_attributes(module):
            if f"{name}_orig" in module._parameters:
                continue
            for _, tensor in plain_tensors(value):
                yield f"{path}.{name}".removeprefix("."), tensor


def buffers_that_share(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of each two buffers of a model that share memory and are two objects."""
    names = {id(buffer): name for name, buffer in model.named_buffers()}
    for first, second in meeting(placed(model.named_buffers())):
        yield names[id(first)], names[id(second)]


def _two_parameters(first: str, second: str) -> TraceError:
    return TraceError(
        f"parameters '{first}' and '{second}' share memory without being one parameter, so an "
        f"optimizer would step that memory twice: make them one, model.{second} = model.{first}, "
        "or give each memory of its own, with .clone()"
    )


def _shared_with(kind: str, name: str, parameter: str) -> TraceError:
    keep = "register" if kind == "buffer" else "keep"
    return TraceError(
        f"{kind} '{name}' shares memory with parameter '{parameter}', which training changes: use "
        f"the parameter itself in forward, or {keep} a copy, {parameter}.detach().clone()"
    )
