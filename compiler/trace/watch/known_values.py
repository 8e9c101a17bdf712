"""Values of traced tensors, which have none: computed beside the trace where they can be known.

What depends on nothing but numbers and the batch size is a constant: it is computed for several
batch sizes. What depends on the batch or on buffers is computed for the example batch alone, where
that is given.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from pipecut.model.draws import may_draw

# Batch sizes that constants are computed for: what they agree on is taken to hold for any size.
BATCHES = (1, 2, 5)
# Bytes of values kept in one trace, all batch sizes together: a model may make a mask per layer.
MOST_BYTES = 2**29
# Of what has no known values, each element of these usually is.
USUALLY = {
    torch.isfinite: True,
    torch.Tensor.isfinite: True,
    torch.isinf: False,
    torch.Tensor.isinf: False,
    torch.isnan: False,
    torch.Tensor.isnan: False,
}


@dataclass(frozen=True)
class Given:
    """The example batch and the buffers, by name."""

    batch: Mapping[str, torch.Tensor]
    buffers: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class _Known:
    """A traced tensor, which is kept so that its id stays its own, and its values.

    Those of a constant are for every size; those of anything else for the example batch alone.
    `usual` ones follow from what is usual.
    """

    tensor: torch.Tensor
    values: tuple[Any, ...]
    usual: bool = False


@dataclass
class KnownValues:
    """Follows a trace's calls. Without the example batch, `given`, only constants are known."""

    given: Given | None = None
    known: dict[int, _Known] = field(default_factory=dict)
    bytes_left: int = MOST_BYTES

    @property
    def _sizes(self) -> tuple[int | None, ...]:
        """None for the example batch, which may have other sizes than its samples, too."""
        return BATCHES if self.given is None else (*BATCHES, None)

    def note_given(self, tensors: Mapping[str, Any], values: Mapping[str, torch.Tensor]) -> None:
        """Let traced tensors have the given values of the same names, copied."""
        for name, tensor in tensors.items():
            if isinstance(tensor, torch.Tensor) and name in values:
                with _untraced():
                    value = values[name].detach().clone()
                self.known[id(tensor)] = _Known(tensor, (value,))

    def is_constant(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor depends on nothing but the batch size."""
        known = self._of(tensor)
        return known is not None and len(known.values) == len(self._sizes)

    def is_usual(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Whether what is known of any of the tensors follows from what is usual."""
        return any(known.usual for known in map(self._of, tensors) if known is not None)

    def values(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """What a call returns: for each size where all tensors are constants, else for the example.

        Nothing where it cannot be known.
        """
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        known = [self._of(tensor) for tensor in leaves]
        if may_draw(func) or None in known:
            return ()
        constant = all(map(self.is_constant, leaves))
        if not constant and self.given is None:
            return ()
        sizes = self._sizes if constant else self._sizes[-1:]

        def value(leaf: Any, at: int) -> Any:
            if isinstance(leaf, torch.Tensor):
                values = self._known(leaf).values
                return values[at if constant else -1]
            if isinstance(leaf, torch.SymInt):
                return _for_size(leaf, sizes[at])
            return leaf

        made: list[Any] = []
        try:
            with _untraced(), torch.no_grad():
                calls = [
                    tree_map(lambda leaf, i=i: value(leaf, i), (args, kwargs))
                    for i in range(len(sizes))
                ]
                for a, k in calls:
                    made.append(func(*a, **k))
                    # What writes to no tensor need not be made for sizes that will not be kept.
                    if not leaves and _bytes_of(made) > self.bytes_left:
                        return ()
        except Exception:
            return ()
        return tuple(made)

    def follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Note what a traced call returned and wrote."""
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if not made:
            return
        values = self.values(func, args, kwargs) if self.bytes_left > 0 else ()
        given = self._tensors((args, kwargs))
        usual = self.is_usual(given)
        if not values and func in USUALLY and self.given is not None:
            values, usual = self._usual(made[0], USUALLY[func]), True
        leaves = [self._tensors(value) for value in values]
        writes = getattr(func, "__name__", "").endswith("_") or "out" in kwargs
        if not values and writes:
            self._forget(given)
        for position, tensor in enumerate(made):
            self.known.pop(id(tensor), None)
            if all(len(of_size) == len(made) for of_size in leaves) and leaves:
                values_of = tuple(of_size[position] for of_size in leaves)
                self._note(_Known(tensor, values_of, usual))

    def _note(self, known: _Known) -> None:
        # The size is asked of the values: asking the traced tensor would guard on its batch.
        size = _bytes_of(known.values)
        if size <= self.bytes_left:
            self.bytes_left -= size
            self.known[id(known.tensor)] = known

    def _usual(self, tensor: torch.Tensor, value: bool) -> tuple[Any, ...]:
        sizes = [_hint(size) if isinstance(size, torch.SymInt) else size for size in tensor.shape]
        if None in sizes:
            return ()
        with _untraced():
            return (torch.tensor(value).expand(sizes),)

    def _forget(self, written: Iterable[torch.Tensor]) -> None:
        """Forget tensors that something unknown may have been written to, and their views."""
        storages = {
            value.untyped_storage().data_ptr()
            for known in map(self._of, written)
            if known is not None
            for value in known.values
        }
        if not storages:
            return
        self.known = {
            key: known
            for key, known in self.known.items()
            if storages.isdisjoint(v.untyped_storage().data_ptr() for v in known.values)
        }

    def _of(self, tensor: torch.Tensor) -> _Known | None:
        known = self.known.get(id(tensor))
        if known is not None or not _is_real(tensor):
            return known
        # A plain tensor that the model holds.
        return _Known(tensor, (tensor,) * len(self._sizes))

    def _known(self, tensor: torch.Tensor) -> _Known:
        known = self._of(tensor)
        assert known is not None
        return known

    @staticmethod
    def _tensors(value: Any) -> list[torch.Tensor]:
        return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _bytes_of(values: Iterable[Any]) -> int:
    return sum(v.untyped_storage().nbytes() for v in values if isinstance(v, torch.Tensor))


def _is_real(tensor: torch.Tensor) -> bool:
    return not isinstance(tensor, FakeTensor | FunctionalTensor | torch.nn.Parameter)


def _for_size(size: torch.SymInt, batch: int | None) -> int:
    """A size for so many samples. Raises ValueError where it depends on more than these."""
    if batch is None:
        known = _hint(size)
        if known is None:
            raise ValueError(f"{size} depends on data")
        return known
    expression = size.node.expr
    symbols = expression.free_symbols
    # torch names what depends on data u0, u1, ...
    if len(symbols) > 1 or any(str(symbol).startswith("u") for symbol in symbols):
        raise ValueError(f"{expression} is no size of the batch")
    return int(expression.subs(dict.fromkeys(symbols, batch)))


def _hint(size: torch.SymInt) -> int | None:
    """The size that the example batch has; None where it depends on data."""
    return size.node.hint if size.node.has_hint() else None


@contextmanager
def _untraced() -> Iterator[None]:
    """Around computations that are no part of the trace."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield
