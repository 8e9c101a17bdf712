"""Real parameters that hold memory only while something works on them.

A rank keeps few of a model's parameters, but its generator must draw the numbers of all the others in between, with every
value in place that a draw may depend on. So the others are real tensors too. Only the most recently used stay filled; the
storage of the rest is emptied, and filled again with unknown contents when an operator touches it. What is computed
from unknown contents is remembered, so that the caller can keep those parameters and build again.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They fill the tensor they are called on, whatever it held.
FILLS = {
    *("normal_", "uniform_", "zero_", "fill_", "copy_", "random_", "bernoulli_", "exponential_", "cauchy_", "geometric_"),
    *("log_normal_", "set_"),
}
# They look at a tensor's shape, not at its contents.
SHAPE_ONLY = {
    *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like", "new_empty"),
    *("new_zeros", "new_ones", "new_full", "new_empty_strided", "is_same_size"),
}
COPIES = {"clone", "_to_copy"}
NOTHING: frozenset[int] = frozenset()


class LentStorage(TorchDispatchMode):
    """While it is active, lent parameters together hold about `budget` bytes at most."""

    def __init__(self, budget: int = 2**28) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.budget = budget
        self.lent: dict[int, tuple[torch.UntypedStorage, int, int]] = {}
        self.filled: OrderedDict[int, int] = OrderedDict()
        self.total = 0
        self.unknown: dict[int, frozenset[int]] = {}
        self.read: set[int] = set()

    def lend(self, tensor: torch.Tensor, number: int) -> None:
        """From now on the tensor's storage may be emptied. `number` names it in `unknown_in`."""
        storage = tensor.untyped_storage()
        if tensor.device.type == "cpu" and storage.resizable() and storage.nbytes():
            self.lent[storage._cdata] = storage, storage.nbytes(), number
            self._use([storage._cdata])

    def unknown_in(self, tensor: torch.Tensor) -> frozenset[int]:
        """Numbers of the parameters whose lost contents the tensor's own depend on."""
        return self.unknown.get(_key(tensor), NOTHING)

    def _use(self, keys: list[int]) -> None:
        for key in keys:
            storage, size, number = self.lent[key]
            if storage.nbytes() == 0:
                storage.resize_(size)
                self.unknown[key] = frozenset([number])
            self.total += size - self.filled.get(key, 0)
            self.filled[key] = size
            self.filled.move_to_end(key)
        if self.total <= self.budget:
            return
        for key in [key for key in self.filled if key not in keys]:
            if self.total <= self.budget:
                break
            self.total -= self.filled.pop(key)
            self.lent[key][0].resize_(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and not t.is_meta]
        self._use([key for key in {_key(t) for t in tensors} if key in self.lent])
        result = func(*args, **kwargs)
        results = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and not t.is_meta]
        self._follow(func, args, kwargs, tensors, results)
        return result

    def _follow(self, func: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor], results: list[torch.Tensor]) -> None:
        """What the operator's results, and what it wrote to, now depend on."""
        name = func._schema.name.split("::")[-1]
        before = {_key(t) for t in tensors}
        if name in SHAPE_ONLY:
            sources = NOTHING
        else:
            filled = args[:1] if name in FILLS and args else ()
            read = [t for t in tensors if not any(t is f for f in filled) and t is not kwargs.get("out")]
            sources = NOTHING.union(*(self.unknown_in(t) for t in read))
        fresh = [t for t in results if _key(t) not in before]
        for tensor in fresh:
            self._set(tensor, sources)
        for position, argument in enumerate(func._schema.arguments):
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(given, torch.Tensor):
                fills = name in FILLS or argument.name == "out"
                whole = fills and given.numel() * given.element_size() >= given.untyped_storage().nbytes()
                self._set(given, sources if whole else sources | self.unknown_in(given))
        if not results and sources and not func.is_view:
            self.read |= sources
        if name in COPIES and len(fresh) == 1 and _key(tensors[0]) in self.lent:
            self.lend(fresh[0], self.lent[_key(tensors[0])][2])

    def _set(self, tensor: torch.Tensor, sources: frozenset[int]) -> None:
        # A storage that is gone may leave its key to a new one, so known contents are said too.
        if sources:
            self.unknown[_key(tensor)] = sources
        else:
            self.unknown.pop(_key(tensor), None)


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else id(tensor)
