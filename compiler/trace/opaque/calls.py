"""What a trace takes for the calls of opaque modules, from what was seen of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pipecut.compiler.graph import OpaqueWork
from pipecut.compiler.trace.opaque.observed import Position, SeenCall, SeenTensor, plain_leaves
from pipecut.compiler.trace.opaque.sizes import Size, size_of
from pipecut.compiler.trace.opaque.untraceable import Untraceable
from pipecut.model.opaque.nested import as_text, nesting_in, with_leaves


@dataclass(frozen=True)
class CallKey:
    """A call of the module at a path, by its number in a forward; and whether that trains."""

    path: str
    number: int
    training: bool


@dataclass(frozen=True)
class KnownTensor:
    """A tensor of a result, for any batch size."""

    sizes: tuple[Size, ...]
    seen: SeenTensor

    def made(self, batch: Any) -> torch.Tensor:
        """A tensor like it, without values."""
        sizes = [size.of(batch) for size in self.sizes]
        order = self.seen.order
        dense = torch.empty([sizes[dimension] for dimension in order], dtype=self.seen.dtype)
        return dense.permute([order.index(dimension) for dimension in range(len(order))])


@dataclass(frozen=True)
class KnownCall:
    """A call for any batch size; see `SeenCall`."""

    key: CallKey
    arguments: str
    imports: tuple[str, ...]
    places: tuple[bool, ...]
    numbers: tuple[Size, ...]
    template: Any
    tensors: tuple[KnownTensor, ...]
    written: tuple[int, ...]
    work: tuple[OpaqueWork, OpaqueWork]

    def result(self, tensors: Sequence[torch.Tensor], batch: Any) -> Any:
        """The result with these tensors in it."""

        def filled(leaf: Any) -> Any:
            if isinstance(leaf, Position):
                return tensors[leaf.number]
            return leaf.of(batch) if isinstance(leaf, Size) else leaf

        return with_leaves(self.template, filled)

    @property
    def others(self) -> tuple[str, ...]:
        """What the result has beside tensors, as a plan says it."""
        leaves = (
            f"int {leaf.text}" if isinstance(leaf, Size) else as_text(leaf)
            for leaf in plain_leaves(self.template)
        )
        return (*leaves, *nesting_in(self.template, Position))

    @property
    def form(self) -> Literal["tensor", "tensors", "nested"]:
        """How a stage takes the tensors out of the result: see `OpaqueCall.results`."""
        if isinstance(self.template, Position):
            return "tensor"
        flat = type(self.template) in (tuple, list)
        if flat and all(isinstance(leaf, Position) for leaf in self.template):
            return "tensors"
        return "nested"


def known_call(key: CallKey, seen: Sequence[SeenCall]) -> KnownCall:
    """What two calls with different batch sizes say of any. Raises TraceError where they differ."""
    if len(seen) != 2:
        raise _refusal(key, "it is called more often with one batch than with another")
    first, second = seen
    if first.arguments != second.arguments:
        raise _refusal(key, "it is called in one way with one batch and in another with another")
    batches = first.samples, second.samples
    numbers = [
        _size(key, a, b, *batches) for a, b in zip(first.numbers, second.numbers, strict=True)
    ]
    if len(first.tensors) != len(second.tensors):
        raise _refusal(key, "it returns more tensors for one batch than for another")
    pairs = zip(first.tensors, second.tensors, strict=True)
    tensors = tuple(_tensor(key, a, b, batches) for a, b in pairs)
    return KnownCall(
        key,
        first.arguments,
        first.imports,
        first.places,
        tuple(numbers),
        _template(key, first, second),
        tensors,
        tuple(sorted({*first.written, *second.written})),
        (first.work, second.work),
    )


def _tensor(
    key: CallKey, first: SeenTensor, second: SeenTensor, batches: tuple[int, int]
) -> KnownTensor:
    if first.dtype != second.dtype or len(first.sizes) != len(second.sizes):
        raise _refusal(key, "what it returns has another dtype or number of dimensions by batch")
    pairs = zip(first.sizes, second.sizes, strict=True)
    return KnownTensor(tuple(_size(key, a, b, *batches) for a, b in pairs), first)


def _template(key: CallKey, first: SeenCall, second: SeenCall) -> Any:
    """The result, in which numbers that follow the batch are sizes."""
    others = iter(plain_leaves(second.template))

    def compared(leaf: Any) -> Any:
        if isinstance(leaf, Position):
            return leaf
        other = next(others, None)
        if type(leaf) is int and type(other) is int:
            return _size(key, leaf, other, first.samples, second.samples)
        if type(leaf) is not type(other) or (leaf is not other and leaf != other):
            raise _refusal(key, f"beside tensors it returns {leaf!r} or {other!r}, by the batch")
        return leaf

    return with_leaves(first.template, compared)


def _size(key: CallKey, first: int, second: int, samples: int, other_samples: int) -> Size:
    size = size_of(first, samples, second, other_samples)
    if size is None:
        raise _refusal(
            key,
            f"a size of what it takes or returns is {first} with {samples} samples and {second} "
            f"with {other_samples}, so it depends on data",
        )
    return size


def _refusal(key: CallKey, problem: str) -> Untraceable:
    around = key.path.rpartition(".")[0]
    remedy = (
        f'make the module around it opaque: model.opaque: ["{around}"]'
        if around
        else "put what uses its result into a module together with it, and make that opaque"
    )
    return Untraceable(
        f"'{key.path}' cannot run as it is within a plan: {problem}; {remedy}", key.path
    )
