"""Real parameters that hold memory only while something works on them.

A rank keeps few of a model's parameters, but its generator must go past the numbers of all the others in between. What only
writes to one of them is left out, and of a draw only its random numbers are counted: the contents are unknown. What is computed
from unknown contents is remembered, so that the caller can keep those parameters and build again.

Where the model's own code looks at such contents, all are drawn instead, into real tensors of which only the most recently used
stay filled: the storage of the rest is emptied, and filled again with unknown contents when an operator touches it.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from pipecut.device.local import on_cpu
from pipecut.model.skip_draws import skip, words_of

# They fill the tensor they are called on, whatever it held.
FILLS = {
    *(
        "normal_",
        "uniform_",
        "zero_",
        "fill_",
        "copy_",
        "random_",
        "bernoulli_",
        "exponential_",
        "cauchy_",
        "geometric_",
    ),
    *("log_normal_", "set_"),
}
# They look at a tensor's shape, not at its contents.
SHAPE_ONLY = {
    *(
        "empty_like",
        "zeros_like",
        "ones_like",
        "full_like",
        "rand_like",
        "randn_like",
        "randint_like",
        "new_empty",
    ),
    *("new_zeros", "new_ones", "new_full", "new_empty_strided", "is_same_size"),
}
COPIES = {"clone", "_to_copy"}
# They write to nothing but the tensor they are called on, element by element.
WRITES = {
    *(
        "zero_",
        "fill_",
        "copy_",
        "mul_",
        "div_",
        "add_",
        "sub_",
        "neg_",
        "abs_",
        "clamp_",
        "clamp_min_",
        "clamp_max_",
    ),
    *("erfinv_", "exp_", "log_", "sqrt_", "pow_", "masked_fill_", "triu_", "tril_"),
}
DRAWS = {"normal_", "uniform_"}
# They look at the generator, or set it.
STATE = ("get_rng_state", "set_rng_state", "manual_seed", "seed", "initial_seed")
# They read a tensor's memory from Python.
LOOKS = ("numpy", "tolist", "__array__")
NOTHING: frozenset[int] = frozenset()


class ContentsAreRead(BaseException):
    """The model's code looks at a value that was left out. No Exception, which that code might catch."""


class ReclaimableStorage(TorchDispatchMode):
    """While it is active, lent parameters together hold about `budget` bytes at most; without `drawn` none has contents.

    Raises ContentsAreRead when Python looks at contents that are left out.
    """

    def __init__(self, drawn: bool = True, budget: int = 2**28) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.budget, self.drawn = budget, drawn
        # Words that the generator has to go past before its next draw.
        self.passed = 0
        self.lent: dict[int, tuple[torch.UntypedStorage, int, int]] = {}
        self.filled: OrderedDict[int, int] = OrderedDict()
        self.total = 0
        self.unknown: dict[int, frozenset[int]] = {}
        self.read: set[int] = set()

    def lend(self, tensor: torch.Tensor, number: int) -> None:
        """From now on the tensor's storage may be emptied. `number` names it in `unknown_in`."""
        storage = tensor.untyped_storage()
        if on_cpu(tensor) and storage.resizable() and storage.nbytes():
            self.lent[storage._cdata] = storage, storage.nbytes(), number
            if self._leaves_out(storage._cdata):
                storage.resize_(0)
            else:
                self._use([storage._cdata])

    def depends_on_lost(self, tensor: torch.Tensor) -> frozenset[int]:
        """Numbers of the parameters whose lost contents the tensor's own depend on."""
        return self.unknown.get(_key(tensor), NOTHING)

    def catch_up(self) -> None:
        """Bring the generator to where it would be."""
        words, self.passed = self.passed, 0
        skip(words)

    def __enter__(self) -> Self:
        self.before = {name: getattr(torch.random, name) for name in STATE}
        for name, function in self.before.items():
            for module in (torch, torch.random):
                setattr(module, name, self._caught_up(function))
        self.looks = {name: getattr(torch.Tensor, name) for name in LOOKS}
        for name, function in self.looks.items():
            setattr(torch.Tensor, name, self._seen(function))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for name, function in self.before.items():
            for module in (torch, torch.random):
                setattr(module, name, function)
        for name, function in self.looks.items():
            setattr(torch.Tensor, name, function)

    def _seen(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """For what reads a tensor without an operator that would be seen."""

        def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if not tensor.is_meta:
                self._use([key for key in [_key(tensor)] if key in self.lent])
                self._read(self.depends_on_lost(tensor))
            return function(tensor, *args, **kwargs)

        return call

    def _read(self, sources: frozenset[int]) -> None:
        self.read |= sources
        if sources and not self.drawn:
            raise ContentsAreRead

    def _caught_up(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            # No draw: the dispatch mode would take the look at the state for an operator of the model.
            with _disable_current_modes():
                self.catch_up()
            return function(*args, **kwargs)

        return call

    def _leaves_out(self, key: int) -> bool:
        """Whether a storage is of a parameter that gets no contents."""
        return not self.drawn and key in self.lent

    def _passes(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Leave out what only writes to a parameter without contents. Whether it was left out."""
        if (
            name not in DRAWS | WRITES
            or not isinstance(args[0], torch.Tensor)
            or not self._leaves_out(_key(args[0]))
        ):
            return False
        if name in DRAWS:
            words = words_of(name, args[0]) if kwargs.get("generator") is None else None
            if words is None:
                return False
            self.passed += words
        return True

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
            # NumPy holds on to what it has seen.
            if self.lent[key][0].resizable():
                self.lent[key][0].resize_(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._passes(func._schema.name.split("::")[-1], args, kwargs):
            self.unknown[_key(args[0])] = frozenset([self.lent[_key(args[0])][2]])
            return args[0]
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.catch_up()
        tensors = [
            t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and not t.is_meta
        ]
        self._use([key for key in {_key(t) for t in tensors} if key in self.lent])
        result = func(*args, **kwargs)
        results = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and not t.is_meta]
        self._follow(func, args, kwargs, tensors, results)
        return result

    def _follow(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        tensors: list[torch.Tensor],
        results: list[torch.Tensor],
    ) -> None:
        """What the operator's results, and what it wrote to, now depend on."""
        name = func._schema.name.split("::")[-1]
        before = {_key(t) for t in tensors}
        if name in SHAPE_ONLY:
            sources = NOTHING
        else:
            filled = args[:1] if name in FILLS and args else ()
            read = [
                t for t in tensors if not any(t is f for f in filled) and t is not kwargs.get("out")
            ]
            sources = NOTHING.union(*(self.depends_on_lost(t) for t in read))
        fresh = [t for t in results if _key(t) not in before]
        for tensor in fresh:
            self._set(tensor, sources)
        for position, argument in enumerate(func._schema.arguments):
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            if (
                argument.alias_info is not None
                and argument.alias_info.is_write
                and isinstance(given, torch.Tensor)
            ):
                fills = name in FILLS or argument.name == "out"
                whole = (
                    fills
                    and given.numel() * given.element_size() >= given.untyped_storage().nbytes()
                )
                self._set(given, sources if whole else sources | self.depends_on_lost(given))
        if not results and sources and not func.is_view:
            self._read(sources)
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
