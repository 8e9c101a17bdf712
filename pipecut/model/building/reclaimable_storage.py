"""Real parameters that hold memory only while something works on them.

A rank keeps few of a model's parameters, but its generator must go past the random numbers of all
the others. An operator that only writes to another parameter is left out, and of a draw only the
words are counted: the contents are lost. What is computed from lost contents is remembered, so that
the caller can keep those parameters and build again.

Where the model's own code reads such contents, all are drawn instead, into real tensors of which
only the most recently used stay filled: the storage of the others is emptied, and gets memory with
unknown contents when an operator touches it.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from pipecut.device.local import on_cpu
from pipecut.model.building.effects import COPIES, DRAWS, FILLS, READS, SHAPE_ONLY, STATE, WRITES
from pipecut.model.building.skip_draws import skip, words_of

NOTHING: frozenset[int] = frozenset()


class ContentsAreRead(BaseException):
    """The model's code reads lost contents. Not an Exception, which that code might catch."""


@dataclass(frozen=True)
class _Managed:
    """A storage that may be emptied, its bytes when filled, and its parameter's number."""

    storage: torch.UntypedStorage
    size: int
    number: int


class ReclaimableStorage(TorchDispatchMode):
    """While it is active, managed parameters together hold at most about `budget` bytes.

    Without `drawn` none has contents. Then raises ContentsAreRead where Python reads lost contents.
    """

    def __init__(self, drawn: bool = True, budget: int = 2**28) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.budget, self.drawn = budget, drawn
        # Words that the generator has to skip before its next draw.
        self.skipped_words = 0
        # By storage: what is managed; bytes of those with memory, the least recently used first.
        self.managed: dict[int, _Managed] = {}
        self.filled: OrderedDict[int, int] = OrderedDict()
        self.filled_bytes = 0
        # By storage: numbers of the parameters whose lost contents its own depend on.
        self.sources: dict[int, frozenset[int]] = {}
        # Numbers of parameters whose lost contents Python read.
        self.read: set[int] = set()

    def manage(self, tensor: torch.Tensor, number: int) -> None:
        """From now on the tensor's storage may be emptied. `number` names the parameter."""
        storage = tensor.untyped_storage()
        if on_cpu(tensor) and storage.resizable() and storage.nbytes():
            self.managed[storage._cdata] = _Managed(storage, storage.nbytes(), number)
            if self._leaves_out(storage._cdata):
                storage.resize_(0)
            else:
                self._use([storage._cdata])

    def depends_on_lost(self, tensor: torch.Tensor) -> frozenset[int]:
        """Numbers of the parameters whose lost contents the tensor's own depend on."""
        return self.sources.get(_key(tensor), NOTHING)

    def catch_up(self) -> None:
        """Bring the generator to where it would be without left-out draws."""
        words, self.skipped_words = self.skipped_words, 0
        skip(words)

    def __enter__(self) -> Self:
        self.state_functions = {name: getattr(torch.random, name) for name in STATE}
        for name, function in self.state_functions.items():
            for module in (torch, torch.random):
                setattr(module, name, self._caught_up(function))
        self.read_methods = {name: getattr(torch.Tensor, name) for name in READS}
        for name, function in self.read_methods.items():
            setattr(torch.Tensor, name, self._seen(function))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for name, function in self.state_functions.items():
            for module in (torch, torch.random):
                setattr(module, name, function)
        for name, function in self.read_methods.items():
            setattr(torch.Tensor, name, function)

    def _seen(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a method that reads a tensor without an operator that would be dispatched."""

        def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if not tensor.is_meta:
                self._use([key for key in [_key(tensor)] if key in self.managed])
                self._read(self.depends_on_lost(tensor))
            return function(tensor, *args, **kwargs)

        return call

    def _read(self, sources: frozenset[int]) -> None:
        self.read |= sources
        if sources and not self.drawn:
            raise ContentsAreRead

    def _caught_up(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            # The mode would take operators that read the state for operators of the model.
            with _disable_current_modes():
                self.catch_up()
            return function(*args, **kwargs)

        return call

    def _leaves_out(self, key: int) -> bool:
        """Whether a storage is of a parameter that gets no contents."""
        return not self.drawn and key in self.managed

    def _left_out(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Leave out an operator that only writes to a parameter without contents, if it is one."""
        if name not in DRAWS | WRITES or not isinstance(args[0], torch.Tensor):
            return False
        if not self._leaves_out(_key(args[0])):
            return False
        if name in DRAWS:
            words = words_of(name, args[0]) if kwargs.get("generator") is None else None
            if words is None:
                return False
            self.skipped_words += words
        return True

    def _use(self, keys: list[int]) -> None:
        """Give memory to these storages, and empty the least recently used ones over the budget."""
        for key in keys:
            managed = self.managed[key]
            if managed.storage.nbytes() == 0:
                managed.storage.resize_(managed.size)
                self.sources[key] = frozenset([managed.number])
            self.filled_bytes += managed.size - self.filled.get(key, 0)
            self.filled[key] = managed.size
            self.filled.move_to_end(key)
        if self.filled_bytes <= self.budget:
            return
        for key in [key for key in self.filled if key not in keys]:
            if self.filled_bytes <= self.budget:
                break
            self.filled_bytes -= self.filled.pop(key)
            # NumPy keeps the memory of an array that it made of a tensor.
            if self.managed[key].storage.resizable():
                self.managed[key].storage.resize_(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._left_out(_name(func), args, kwargs):
            key = _key(args[0])
            self.sources[key] = frozenset([self.managed[key].number])
            return args[0]
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.catch_up()
        tensors = _real_tensors((args, kwargs))
        self._use([key for key in {_key(t) for t in tensors} if key in self.managed])
        result = func(*args, **kwargs)
        self._follow(func, args, kwargs, tensors, _real_tensors(result))
        return result

    def _follow(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        tensors: list[torch.Tensor],
        results: list[torch.Tensor],
    ) -> None:
        """Record what an operator's results, and what it wrote to, now depend on."""
        sources = self._sources_of(func, args, kwargs, tensors)
        keys_before = {_key(t) for t in tensors}
        new = [t for t in results if _key(t) not in keys_before]
        for tensor in new:
            self._set(tensor, sources)
        for position, argument in enumerate(func._schema.arguments):
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            alias = argument.alias_info
            if alias is not None and alias.is_write and isinstance(value, torch.Tensor):
                fills = _name(func) in FILLS or argument.name == "out"
                keeps = NOTHING if fills and _whole(value) else self.depends_on_lost(value)
                self._set(value, sources | keeps)
        if not results and sources and not func.is_view:
            self._read(sources)
        if _name(func) in COPIES and len(new) == 1 and _key(tensors[0]) in self.managed:
            self.manage(new[0], self.managed[_key(tensors[0])].number)

    def _sources_of(
        self, func: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor]
    ) -> frozenset[int]:
        """Numbers of the parameters whose lost contents an operator's arguments depend on."""
        if _name(func) in SHAPE_ONLY:
            return NOTHING
        written = [kwargs.get("out"), *(args[:1] if _name(func) in FILLS else ())]
        read = [t for t in tensors if not any(t is w for w in written)]
        return NOTHING.union(*(self.depends_on_lost(t) for t in read))

    def _set(self, tensor: torch.Tensor, sources: frozenset[int]) -> None:
        # A storage that is gone may leave its key to a new one, so clear what is no longer lost.
        if sources:
            self.sources[_key(tensor)] = sources
        else:
            self.sources.pop(_key(tensor), None)


def _name(func: Any) -> str:
    return str(func._schema.name.split("::")[-1])


def _real_tensors(values: Any) -> list[torch.Tensor]:
    return [t for t in tree_leaves(values) if isinstance(t, torch.Tensor) and not t.is_meta]


def _whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor takes up its whole storage."""
    return tensor.numel() * tensor.element_size() >= tensor.untyped_storage().nbytes()


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else id(tensor)
