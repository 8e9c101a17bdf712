"""Tensors of a model that share memory without being one object, found while the model is built.

On meta a parameter has no memory, so what it had is noted before it goes there: two parameters that look at one storage, or at
one NumPy array, would otherwise be two to the plan, while in the unsplit model each changes with the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from pipecut.errors import TraceError

OWN = frozenset(vars(nn.Module()))
Layout = tuple[tuple[int, ...], tuple[int, ...], int, torch.dtype]
# Up to so many elements of a storage it is looked up which of them a tensor has; beyond, all between its first and last.
EXACT = 1 << 24


@dataclass(frozen=True)
class Region:
    """Where a tensor lies: its storage, its bytes in memory where it has any, and its own layout."""

    storage: StorageWeakRef
    begin: int
    end: int
    layout: Layout
    # Memory of others, such as NumPy's, is kept, so that nothing else can come to lie there.
    kept: torch.UntypedStorage | None

    @staticmethod
    def of(tensor: torch.Tensor) -> "Region":
        """Of a dense tensor."""
        storage = tensor.untyped_storage()
        span = (
            sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
            + 1
        )
        begin = tensor.data_ptr()
        foreign = storage if not tensor.is_meta and not storage.resizable() else None
        layout = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), tensor.dtype
        return Region(
            _weakly(storage), begin, begin + span * tensor.element_size(), layout, foreign
        )

    @property
    def gone(self) -> bool:
        """Whether nothing has its memory any more."""
        return bool(self.storage.expired())  # type: ignore[no-untyped-call]

    def meets(self, other: "Region") -> bool:
        """Whether some element is in both."""
        if self.storage.cdata == other.storage.cdata:
            return self.layout == other.layout or _same_elements(self.layout, other.layout)
        return bool(
            self.begin and other.begin and self.begin < other.end and other.begin < self.end
        )


class SharedMemory:
    """Watches parameters while a model is built, and says in the end which of its tensors share memory."""

    def __init__(self) -> None:
        # Each parameter that was put on meta, and where it was while that memory lives; its storage on meta.
        self.moved: list[tuple[nn.Parameter, Region]] = []
        self.home: dict[int, StorageWeakRef] = {}
        self.pairs: list[tuple[nn.Parameter, nn.Parameter]] = []

    def note(self, real: nn.Parameter, twin: nn.Parameter) -> None:
        """`twin` on meta takes the place of `real`."""
        if not _dense(real):
            return
        region = Region.of(real)
        self.moved = [entry for entry in self.moved if not entry[1].gone]
        self.pairs += [(other, twin) for other, before in self.moved if before.meets(region)]
        self.moved.append((twin, region))
        self.home[id(twin)] = _weakly(twin.untyped_storage())

    def check(self, model: nn.Module) -> None:
        """Raises TraceError where a trained parameter of the model shares memory with another tensor of it."""
        names = {
            id(p): name
            for name, p in reversed(list(model.named_parameters(remove_duplicate=False)))
        }
        noted = [
            pair for pair in self.pairs if all(id(p) in names and self._unmoved(p) for p in pair)
        ]
        for one, other in (*noted, *_meeting(_regions(model.named_parameters()))):
            if one is not other and (one.requires_grad or other.requires_grad):
                raise _two_parameters(names[id(one)], names[id(other)])
        before = [
            (p, r) for p, r in self.moved if not r.gone and id(p) in names and self._unmoved(p)
        ]
        trained = [
            (p, r) for p, r in (*before, *_regions(model.named_parameters())) if p.requires_grad
        ]
        for kind, held in (("buffer", model.named_buffers()), ("attribute", _attributes(model))):
            for name, tensor in held:
                region = Region.of(tensor) if _dense(tensor) else None
                for parameter, own in trained if region is not None else ():
                    if region is not None and region.meets(own):
                        raise _held_beside(kind, name, names[id(parameter)])

    def _unmoved(self, twin: torch.Tensor) -> bool:
        """Whether a parameter has had no other memory since it was put on meta."""
        return bool(_weakly(twin.untyped_storage()).cdata == self.home[id(twin)].cdata)


def _attributes(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors that are plain attributes of modules, but those that hooks compute anew from a parameter, as spectral_norm's."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in OWN or f"{name}_orig" in module._parameters:
                continue
            for leaf in tree_leaves(value):
                if isinstance(leaf, torch.Tensor) and not isinstance(leaf, nn.Parameter):
                    yield f"{path}.{name}".removeprefix("."), leaf


def buffers_that_share(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of each two buffers of a model that share memory and are two objects."""
    names = {id(buffer): name for name, buffer in model.named_buffers()}
    for one, other in _meeting(_regions(model.named_buffers())):
        yield names[id(one)], names[id(other)]


def _weakly(storage: torch.UntypedStorage) -> StorageWeakRef:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def _dense(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and not is_lazy(tensor) and tensor.numel() > 0


def _regions(tensors: Iterator[tuple[str, torch.Tensor]]) -> list[tuple[torch.Tensor, Region]]:
    return [(tensor, Region.of(tensor)) for _, tensor in tensors if _dense(tensor)]


def _meeting(
    regions: list[tuple[torch.Tensor, Region]],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs whose memory meets: of one storage, or where one of them has the memory of others."""
    by_storage: dict[int, list[tuple[torch.Tensor, Region]]] = {}
    for tensor, region in regions:
        by_storage.setdefault(region.storage.cdata, []).append((tensor, region))
    for together in by_storage.values():
        yield from (
            (a, b) for (a, one), (b, other) in combinations(together, 2) if one.meets(other)
        )
    for a, one in regions:
        for b, other in regions if one.kept is not None else ():
            if one.storage.cdata != other.storage.cdata and one.meets(other):
                yield a, b


def _same_elements(one: Layout, other: Layout) -> bool:
    """Whether two views of one storage have an element in common; ranges alone where they are large or of two dtypes."""
    spans = []
    for shape, strides, offset, dtype in (one, other):
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        spans.append((offset * dtype.itemsize, (last + 1) * dtype.itemsize))
    if spans[0][1] <= spans[1][0] or spans[1][1] <= spans[0][0]:
        return False
    size = max(end for _, end in spans) // one[3].itemsize
    if one[3] != other[3] or size > EXACT:
        return True
    marks = [torch.zeros(size, dtype=torch.bool) for _ in range(2)]
    for mark, (shape, strides, offset, _) in zip(marks, (one, other), strict=True):
        mark.as_strided(shape, strides, offset).fill_(True)
    return bool((marks[0] & marks[1]).any())


def _two_parameters(one: str, other: str) -> TraceError:
    return TraceError(
        f"parameters '{one}' and '{other}' share memory without being one parameter, so an optimizer would step that memory "
        f"twice: make them one, model.{other} = model.{one}, or give each memory of its own, with .clone()"
    )


def _held_beside(kind: str, name: str, parameter: str) -> TraceError:
    return TraceError(
        f"{kind} '{name}' shares memory with parameter '{parameter}', which training changes: use the parameter itself in "
        f"forward, or {'register' if kind == 'buffer' else 'keep'} a copy, {parameter}.detach().clone()"
    )
