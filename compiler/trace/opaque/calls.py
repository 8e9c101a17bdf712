"""What a trace takes for the calls of opaque modules, from what was seen of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from pipecut.compiler.graph import OpaqueWork
from pipecut.compiler.trace.opaque.observed import Position, SeenCall, SeenTensor, plain_leaves
from pipecut.compiler.trace.opaque.sizes import Seen, Size, size_of
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
    """A tensor of a result, for any batch."""

    sizes: tuple[Size, ...]
    seen: SeenTensor

    def made(self, of_batch: Mapping[str, Any]) -> torch.Tensor:
        """A tensor like it, without values, for a batch of such sizes."""
        sizes = [size.of(of_batch) for size in self.sizes]
        order = self.seen.order
        dense = torch.empty([sizes[dimension] for dimension in order], dtype=self.seen.dtype)
        return dense.permute([order.index(dimension) for dimension in range(len(order))])


@dataclass(frozen=True)
class KnownCall:
    """A call for any batch; see `SeenCall`.

    `one_length` is the reason where it is known for lengths of the example batch only.
    """

    key: CallKey
    arguments: str
    imports: tuple[str, ...]
    places: tuple[bool, ...]
    numbers: tuple[Size, ...]
    template: Any
    tensors: tuple[KnownTensor, ...]
    written: tuple[int, ...]
    work: tuple[OpaqueWork, OpaqueWork]
    one_length: str = ""

    def result(self, tensors: Sequence[torch.Tensor], of_batch: Mapping[str, Any]) -> Any:
        """The result with these tensors in it."""

        def filled(leaf: Any) -> Any:
            if isinstance(leaf, Position):
                return tensors[leaf.number]
            return leaf.of(of_batch) if isinstance(leaf, Size) else leaf

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


def known_call(key: CallKey, seen: Sequence[SeenCall], one_length: str) -> KnownCall:
    """What calls with several batches say of any.

    The second one had another number of samples than the first, those after it other lengths;
    `one_length` is the reason where there is none of these. Raises Untraceable where calls with
    other numbers of samples differ.
    """
    try:
        return replace(_known(key, seen), one_length=one_length)
    except Untraceable as error:
        if len(seen) <= 2:
            raise
        problem = error.reason.partition(": ")[2]
        why = f"'{key.path}' runs as it is, and {problem}"
        return replace(_known(key, seen[:2]), one_length=why)


def _known(key: CallKey, seen: Sequence[SeenCall]) -> KnownCall:
    if len(seen) < 2:
        raise _refusal(key, "it is called more often with one batch than with another")
    first = seen[0]
    if any(call.arguments != first.arguments for call in seen):
        raise _refusal(key, "it is called in one way with one batch and in another with another")
    numbers = [_size(key, seen, values) for values in zip(*(c.numbers for c in seen), strict=True)]
    if any(len(call.tensors) != len(first.tensors) for call in seen):
        raise _refusal(key, "it returns more tensors for one batch than for another")
    together = zip(*(call.tensors for call in seen), strict=True)
    tensors = tuple(_tensor(key, seen, of_calls) for of_calls in together)
    return KnownCall(
        key,
        first.arguments,
        first.imports,
        first.places,
        tuple(numbers),
        _template(key, seen),
        tensors,
        tuple(sorted({at for call in seen for at in call.written})),
        (first.work, seen[1].work),
    )


def _tensor(key: CallKey, seen: Sequence[SeenCall], tensors: Sequence[SeenTensor]) -> KnownTensor:
    first = tensors[0]
    if any((t.dtype, len(t.sizes)) != (first.dtype, len(first.sizes)) for t in tensors):
        raise _refusal(key, "what it returns has another dtype or number of dimensions by batch")
    together = zip(*(tensor.sizes for tensor in tensors), strict=True)
    return KnownTensor(tuple(_size(key, seen, values) for values in together), first)


def _template(key: CallKey, seen: Sequence[SeenCall]) -> Any:
    """The result, in which numbers that follow the batch are sizes."""
    others = [iter(plain_leaves(call.template)) for call in seen[1:]]

    def compared(leaf: Any) -> Any:
        if isinstance(leaf, Position):
            return leaf
        of_calls = [leaf, *(next(other, None) for other in others)]
        if all(type(value) is int for value in of_calls):
            return _size(key, seen, of_calls)
        for other in of_calls:
            if type(leaf) is not type(other) or (leaf is not other and leaf != other):
                raise _refusal(
                    key, f"beside tensors it returns {leaf!r} or {other!r}, by the batch"
                )
        return leaf

    return with_leaves(seen[0].template, compared)


def _size(key: CallKey, seen: Sequence[SeenCall], values: Sequence[int]) -> Size:
    together = zip(values, seen, strict=True)
    size = size_of([Seen(value, call.sizes) for value, call in together])
    if size is None:
        with_batches = (
            f"{value} with {' and '.join(f'{name} {of}' for name, of in call.sizes.items())}"
            for value, call in zip(values, seen, strict=True)
        )
        raise _refusal(
            key,
            f"a size of what it takes or returns is {', '.join(with_batches)}: it is neither "
            "fixed nor a multiple of these",
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
