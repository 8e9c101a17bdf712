"""What calls of operators on fake tensors make, remembered: equal layers make equal calls.

A fake kernel takes longer to find what a call makes than it takes to make that again. What a call
makes follows from the operator, the other arguments and each tensor's size, strides, offset, dtype
and device. Remembered are calls whose results are tensors of their own, views of an argument or an
argument itself; any other runs each time.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    in_kernel_invocation_manager,
)

# What an operator makes that has one of these may follow from its arguments' contents.
_BY_CONTENTS = (
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.inplace_view,
)


@dataclass(frozen=True)
class _Made:
    """A result: argument `source` itself, a view of it, or without a source a tensor of its own."""

    source: int | None
    itself: bool = False
    sizes: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    offset: int = 0
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")

    def again(self, mode: FakeTensorMode, tensors: Sequence[FakeTensor]) -> FakeTensor:
        """The result of an equal call on other tensors."""
        source = None if self.source is None else tensors[self.source]
        if source is not None and self.itself:
            return source
        with in_kernel_invocation_manager(mode):
            made = torch.empty_strided(self.sizes, self.strides, dtype=self.dtype, device="meta")
            if source is not None:
                made.set_(source.untyped_storage(), self.offset, self.sizes, self.strides)
        return FakeTensor(mode, made, self.device)


class KnownCalls:
    """The calls so far. What they are keyed by holds within a process, over all its fake modes."""

    def __init__(self) -> None:
        self.made: dict[Hashable, tuple[_Made, ...] | None] = {}

    def run(
        self, mode: FakeTensorMode, func: Any, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """What `func(*args, **kwargs)` returns."""
        tensors: list[FakeTensor] = []
        try:
            key = func, _described(args, tensors), _described(list(kwargs.items()), tensors)
            known = self.made.get(key, ())
        except (TypeError, _UnknownError):
            # Something that cannot be told apart from another.
            return func(*args, **kwargs)
        if known:
            results = [made.again(mode, tensors) for made in known]
            return results[0] if len(results) == 1 else tuple(results)
        result = func(*args, **kwargs)
        if known is not None:
            self.made[key] = None if _depends_on_contents(func) else _made_of(result, tensors)
        return result


class _UnknownError(Exception):
    """An argument whose contents or kind a description leaves out."""


def _described(value: Any, tensors: list[FakeTensor]) -> Hashable:
    """An argument without the identity of its tensors, which are added to the list."""
    if isinstance(value, FakeTensor):
        if value.constant is not None or value.dtype.is_complex or value.layout != torch.strided:
            raise _UnknownError
        tensors.append(value)
        sizes, strides = tuple(value.shape), value.stride()
        return sizes, strides, value.storage_offset(), value.dtype, value.fake_device
    if isinstance(value, list | tuple):
        return type(value), tuple([_described(item, tensors) for item in value])
    if isinstance(value, torch.Tensor):
        raise _UnknownError
    # 1, 1.0 and True are equal, and ask for different things.
    return type(value), value


def _depends_on_contents(func: Any) -> bool:
    return any(tag in func.tags for tag in _BY_CONTENTS)


def _made_of(result: Any, tensors: Sequence[FakeTensor]) -> tuple[_Made, ...] | None:
    """How results are made; None where that is none of the ways that can be remembered."""
    results = result if isinstance(result, tuple) else (result,)
    if isinstance(result, tuple) and len(result) < 2:
        return None
    storages = [tensor.untyped_storage()._cdata for tensor in tensors]
    made, own = [], set[int]()
    for tensor in results:
        if not isinstance(tensor, FakeTensor) or tensor.constant is not None:
            return None
        if tensor.dtype.is_complex or tensor.layout != torch.strided or tensor.requires_grad:
            return None
        itself = next((i for i, argument in enumerate(tensors) if argument is tensor), None)
        if itself is not None:
            made.append(_Made(itself, itself=True))
            continue
        storage = tensor.untyped_storage()
        source = storages.index(storage._cdata) if storage._cdata in storages else None
        if source is None and (not _fills(tensor) or storage._cdata in own):
            return None
        own.add(storage._cdata)
        made.append(
            _Made(
                source,
                sizes=tuple(tensor.shape),
                strides=tensor.stride(),
                offset=int(tensor.storage_offset()),
                dtype=tensor.dtype,
                device=tensor.fake_device,
            )
        )
    return tuple(made)


def _fills(tensor: FakeTensor) -> bool:
    """Whether a tensor has all of its storage, as a new one of its sizes and strides would."""
    reach = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    elements = reach if tensor.numel() else 0
    return (
        tensor.storage_offset() == 0
        and tensor.untyped_storage().nbytes() == elements * tensor.element_size()
    )
