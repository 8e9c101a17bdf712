"""Where tensors lie in memory, and which of them meet."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy

# For storages of up to so many elements the very elements are compared, which takes a byte each;
# beyond, the ranges between first and last.
EXACT = 1 << 24


@dataclass(frozen=True)
class Layout:
    """A tensor's elements within its storage: strides and offset count elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    @property
    def last(self) -> int:
        """The last element, counted from the tensor's first one."""
        return sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))

    @property
    def bytes(self) -> range:
        """From the first byte to behind the last one, in the storage."""
        begin, size = self.offset, self.dtype.itemsize
        return range(begin * size, (begin + self.last + 1) * size)

    def meets(self, layout: "Layout") -> bool:
        """Whether two views of one storage share an element.

        Their ranges decide where the storage is large, or dtypes differ.
        """
        if self.bytes.stop <= layout.bytes.start or layout.bytes.stop <= self.bytes.start:
            return False
        size = max(self.bytes.stop, layout.bytes.stop) // self.dtype.itemsize
        if self.dtype != layout.dtype or size > EXACT:
            return True
        return bool((self._marks(size) & layout._marks(size)).any())

    def _marks(self, size: int) -> torch.Tensor:
        """Of so many elements of the storage, which the tensor has."""
        marks = torch.zeros(size, dtype=torch.bool)
        marks.as_strided(self.shape, self.strides, self.offset).fill_(True)
        return marks


@dataclass(frozen=True)
class Region:
    """Where a tensor lies: its storage, addresses in memory where it has any, its layout."""

    storage: StorageWeakRef
    begin: int
    end: int
    layout: Layout
    # Memory that torch does not own, such as NumPy's, is kept, so that nothing else gets it.
    kept: torch.UntypedStorage | None

    @staticmethod
    def of(tensor: torch.Tensor) -> "Region":
        """The region of a dense tensor."""
        storage = tensor.untyped_storage()
        strides, offset = tensor.stride(), int(tensor.storage_offset())
        layout = Layout(tuple(tensor.shape), strides, offset, tensor.dtype)
        foreign = not tensor.is_meta and not storage.resizable()
        begin = tensor.data_ptr()
        end = begin + (layout.last + 1) * tensor.element_size()
        return Region(weak_storage(tensor), begin, end, layout, storage if foreign else None)

    @property
    def gone(self) -> bool:
        """Whether nothing has this memory any more."""
        return bool(self.storage.expired())  # type: ignore[no-untyped-call]

    def meets(self, region: "Region") -> bool:
        """Whether some element is in both."""
        if self.storage.cdata == region.storage.cdata:
            return self.layout == region.layout or self.layout.meets(region.layout)
        in_memory = self.begin and region.begin
        return bool(in_memory and self.begin < region.end and region.begin < self.end)


@dataclass(frozen=True)
class Placed:
    """A tensor and its region."""

    tensor: torch.Tensor
    region: Region


def weak_storage(tensor: torch.Tensor) -> StorageWeakRef:
    """The tensor's storage, without keeping it alive."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether a tensor has elements at addresses."""
    return tensor.layout is torch.strided and not is_lazy(tensor) and tensor.numel() > 0


def placed(named: Iterable[tuple[str, torch.Tensor]]) -> list[Placed]:
    """The dense ones of named tensors, with their regions."""
    return [Placed(tensor, Region.of(tensor)) for _, tensor in named if is_dense(tensor)]


def meeting(tensors: list[Placed]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs whose memory meets: of one storage, or where one has memory that torch does not own."""
    by_storage: dict[int, list[Placed]] = {}
    for item in tensors:
        by_storage.setdefault(item.region.storage.cdata, []).append(item)
    for group in by_storage.values():
        for first, second in combinations(group, 2):
            if first.region.meets(second.region):
                yield first.tensor, second.tensor
    for first in tensors:
        for second in tensors if first.region.kept is not None else ():
            separate = first.region.storage.cdata != second.region.storage.cdata
            if separate and first.region.meets(second.region):
                yield first.tensor, second.tensor
