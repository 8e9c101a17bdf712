"""What calls of operators on hollow tensors make, remembered: equal layers make equal calls.

The first of equal calls is made on fake tensors. What it makes follows from the operator, the other
arguments and each tensor's size, strides, offset and dtype: what would follow from contents fails.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from pipecut.compiler.costs.data_sizes import DataSized
from pipecut.compiler.operators.data_sizes import makes_size
from pipecut.compiler.predict.hollow import CPU, NOWHERE, tensor_in

Count = Callable[[torch.UntypedStorage], None]


class NotHollowError(Exception):
    """A call that takes or makes something else than hollow tensors."""


@dataclass(frozen=True)
class _Made:
    """A tensor of a result: argument `source` itself, or a view of it, or of new storage `new`."""

    source: int | None
    itself: bool
    new: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    conjugated: bool
    negated: bool

    def again(
        self, tensors: Sequence[torch.Tensor], storages: Sequence[torch.UntypedStorage]
    ) -> torch.Tensor:
        """The tensor that an equal call on other tensors makes."""
        if self.source is None:
            storage = storages[self.new]
        elif self.itself:
            return tensors[self.source]
        else:
            storage = tensors[self.source].untyped_storage()
        made = tensor_in(storage, self.dtype, self.offset, self.sizes, self.strides)
        if self.conjugated:
            made = made.conj()
        return made._neg_view() if self.negated else made


@dataclass(frozen=True)
class _Result:
    """What a call returns, of which `made` are tensors or constants, and bytes of new storages.

    `sequence` is tuple or list; None where the call returns the first of `made`.
    """

    sequence: type[Any] | None
    made: tuple[Any, ...]
    new_bytes: tuple[int, ...]

    @property
    def has_views(self) -> bool:
        """Whether a tensor of it shares an argument's storage, and is not that argument."""
        tensors = [made for made in self.made if isinstance(made, _Made)]
        return any(made.source is not None and not made.itself for made in tensors)

    def again(self, tensors: Sequence[torch.Tensor], count: Count) -> Any:
        """What an equal call on other tensors returns; `count` is given each new storage."""
        storages = [NOWHERE.storage(size) for size in self.new_bytes]
        for storage in storages:
            count(storage)
        results = [
            made.again(tensors, storages) if isinstance(made, _Made) else made for made in self.made
        ]
        return results[0] if self.sequence is None else self.sequence(results)


class KnownCalls:
    """The calls so far, over all dry runs of a process.

    Sizes that depend on data are the most that they can be; those of which none is known,
    `unbounded`.
    """

    def __init__(self, unbounded: int | None = None) -> None:
        self.results: dict[Hashable, _Result] = {}
        self.unbounded = unbounded

    def run(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], count: Count) -> Any:
        """What `func(*args, **kwargs)` returns; `count` is given each new storage.

        Raises NotHollowError, and what an operator raises on fake tensors.
        """
        tensors: list[torch.Tensor] = []
        try:
            key = func, _described(args, tensors), _described(list(kwargs.items()), tensors)
            result = self.results.get(key)
        except _MetaError:
            # What has no storage takes none, and is as fast.
            return func(*args, **kwargs)
        if result is None:
            result = _learned(func, args, kwargs, tensors, self.unbounded)
            if not (result.has_views and _share(tensors)):
                # Of tensors that share a storage it is not known which one a view is of.
                self.results[key] = result
        return result.again(tensors, count)


class _MetaError(Exception):
    """A tensor or an argument says that the call is one on meta."""


def _described(value: Any, tensors: list[torch.Tensor]) -> Hashable:
    """An argument without the identity of its tensors, which are added to the list."""
    # By the type itself: torch answers isinstance in Python.
    kind = type(value)
    if kind is torch.Tensor or kind is torch.nn.Parameter:
        if value.is_meta:
            raise _MetaError
        if value.layout is not torch.strided:
            raise NotHollowError(f"a tensor of layout {value.layout}")
        tensors.append(value)
        place = value.shape, value.stride(), value.storage_offset(), value.dtype
        return *place, value.is_conj(), value.is_neg()
    if kind is list or kind is tuple:
        return kind, tuple([_described(item, tensors) for item in value])
    if kind is torch.device and value.type == "meta":
        raise _MetaError
    if isinstance(value, torch.Tensor):
        raise NotHollowError(f"a tensor of type {kind.__name__}")
    # 1, 1.0 and True are equal, and ask for different things.
    return kind, value


def _share(tensors: Sequence[torch.Tensor]) -> bool:
    return len({tensor.untyped_storage()._cdata for tensor in tensors}) < len(tensors)


def _learned(
    func: Any,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    tensors: Sequence[torch.Tensor],
    unbounded: int | None,
) -> _Result:
    """Make a call on fake tensors in place of hollow ones."""
    mode = FakeTensorMode()
    fakes = _fake(mode, tensors)
    following = iter(fakes)
    fake_args, fake_kwargs = _put(args, following), _put(kwargs, following)
    with mode:
        if makes_size(func, fake_args):
            result = DataSized(mode, unbounded=unbounded).run(func, fake_args, fake_kwargs)
        else:
            result = func(*fake_args, **fake_kwargs)
    for fake, tensor in zip(fakes, tensors, strict=True):
        if fake.shape != tensor.shape or fake.stride() != tensor.stride():
            raise NotHollowError(f"{func} changes the sizes of what it is given")
    return _result_of(result, fakes)


def _fake(mode: FakeTensorMode, tensors: Sequence[torch.Tensor]) -> list[FakeTensor]:
    """Fake tensors of the same sizes, which share storages as the hollow ones do."""
    storages: dict[int, torch.UntypedStorage] = {}
    fakes = []
    for tensor in tensors:
        own = tensor.untyped_storage()
        if own._cdata not in storages:
            empty = torch.empty(own.nbytes(), dtype=torch.uint8, device="meta")
            storages[own._cdata] = empty.untyped_storage()
        storage, offset = storages[own._cdata], int(tensor.storage_offset())
        meta = tensor_in(storage, tensor.dtype, offset, tensor.shape, tensor.stride())
        if tensor.is_conj():
            meta = meta.conj()
        fakes.append(FakeTensor(mode, meta._neg_view() if tensor.is_neg() else meta, CPU))
    return fakes


def _put(value: Any, fakes: Any) -> Any:
    """An argument with the next fake tensors in the places of tensors."""
    if isinstance(value, torch.Tensor):
        return next(fakes)
    if isinstance(value, dict):
        return {name: _put(item, fakes) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_put(item, fakes) for item in value])
    return value


def _result_of(result: Any, arguments: Sequence[FakeTensor]) -> _Result:
    """How what a call returned is made. Raises NotHollowError."""
    sequence = type(result) if isinstance(result, list | tuple) else None
    storages = [argument.untyped_storage()._cdata for argument in arguments]
    new: dict[int, torch.UntypedStorage] = {}
    made: list[Any] = []
    for item in result if sequence is not None else [result]:
        if isinstance(item, FakeTensor):
            made.append(_made_of(item, arguments, storages, new))
        elif item is None or isinstance(item, bool | int | float):
            made.append(item)
        else:
            raise NotHollowError(f"a result of type {type(item).__name__}")
    return _Result(sequence, tuple(made), tuple(storage.nbytes() for storage in new.values()))


def _made_of(
    tensor: FakeTensor,
    arguments: Sequence[FakeTensor],
    storages: Sequence[int],
    new: dict[int, torch.UntypedStorage],
) -> _Made:
    """How a tensor is made; its storage is added to `new` where no argument has it."""
    if tensor.layout != torch.strided or tensor.fake_device != CPU:
        raise NotHollowError(f"a result of layout {tensor.layout} on {tensor.fake_device}")
    itself = next((i for i, argument in enumerate(arguments) if argument is tensor), None)
    storage = tensor.untyped_storage()
    key = storage._cdata
    source = itself
    if itself is None and key in storages:
        source = storages.index(key)
    elif itself is None:
        new.setdefault(key, storage)
    return _Made(
        source,
        itself is not None,
        list(new).index(key) if source is None else 0,
        tuple(tensor.shape),
        tensor.stride(),
        int(tensor.storage_offset()),
        tensor.dtype,
        tensor.is_conj(),
        tensor.is_neg(),
    )
