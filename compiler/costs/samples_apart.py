"""Whether a loss is a mean, or a sum, over samples that its graph keeps apart: walked, or refused.

Each value is followed along the dimension that has the samples, from the batch up to the loss. An
operator that is not known to keep samples apart ends the walk.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pipecut.compiler.costs.loss_terms import SUM
from pipecut.compiler.graph import Graph, Operator, Ref, Sym
from pipecut.compiler.operators.lookup import ATEN, resolve, rule_of, short_name
from pipecut.compiler.operators.table import GETITEM
from pipecut.plan.schema import evaluate

# Numbers of samples for which a dimension is evaluated, to see that it is a multiple of them.
COUNTS = (2, 3, 5, 7)
# Element by element, though torch does not tag them so.
ELEMENTWISE = frozenset(
    """to _to_copy type_as detach detach_ alias contiguous dropout zeros_like ones_like full_like
    copy_ fill_ zero_ masked_fill_ __and__ __or__ __xor__""".split()
)
RESHAPES = frozenset("view reshape _unsafe_view flatten unflatten unsqueeze squeeze".split())
# They mix, or cut, the dimensions that they are given, and no other.
ALONG = frozenset(
    """softmax _softmax log_softmax _log_softmax cumsum cumprod logsumexp sum mean amax amin argmax
    argmin any all roll slice select narrow split chunk unbind split_with_sizes cat
    stack glu""".split()
)
DROPS = frozenset("sum mean amax amin argmax argmin logsumexp any all select unbind".split())
NORMS = frozenset("layer_norm rms_norm".split())
# Each of their inputs with samples has them in its dimension 0, as the result has.
BY_FIRST = frozenset("matmul bmm conv1d conv2d conv3d scaled_dot_product_attention".split())
UNIFORM = frozenset("zeros ones full new_zeros new_ones new_full".split())
Dimension = int | None


class _Mixes(Exception):
    """An operator is not known to keep samples apart; the text says which."""


def why_not_apart(graph: Graph, reduction: str) -> str:
    """Why the loss of a step may depend on which samples are together; "" where it does not.

    `reduction` is the job's; for `tokens` the loss is known to be a mean over labels.
    """
    if not graph.dynamic:
        return "the model fixes its number of samples"
    walk = _Walk(graph)
    for operator in graph.operators:
        try:
            if operator.name == graph.loss:
                return walk.why_no_loss(operator, reduction)
            walk.follow(operator)
        except _Mixes as mixing:
            at = f", {operator.source}" if operator.source else ""
            return f"{mixing} ({short_name(operator.target)}{at})"
    return "the graph has no operator that makes the loss"


class _Walk:
    """The dimension of samples of each value so far; None of one that has nothing of a batch."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.at: dict[str, Dimension] = {
            tensor.value: None if tensor.whole else 0 for tensor in graph.batch_inputs
        }
        # Numbers of samples, by which a mask may be looked up and nothing else.
        self.numbers: set[str] = set()
        self.at |= {p.value: None for p in graph.parameters}
        self.at |= {b.value: None for b in graph.buffers}

    def follow(self, operator: Operator) -> None:
        """Raises _Mixes."""
        if rule_of(operator.target).guard:
            return
        if short_name(operator.target) == GETITEM:
            self.at[operator.name] = self._of_member(operator)
            return
        given = {name: self.at[name] for name in operator.inputs if name in self.at}
        if len(given) != len(set(operator.inputs)) or operator.opaque is not None:
            raise _Mixes("it is not known to keep samples apart")
        results = self.graph.results_of(operator)
        carried = {name: d for name, d in given.items() if d is not None}
        for result in results:
            self.at[result] = self._of(operator, result, carried)
        places = {self.at[result] for result in results}
        if len(places) == 1:
            self.at.setdefault(operator.name, next(iter(places)))
        for written in operator.writes:
            if any(self.at[written] != self.at[result] for result in results):
                raise _Mixes("it writes what follows samples to what does not")

    def _of_member(self, operator: Operator) -> Dimension:
        source = operator.inputs[0]
        if source not in self.at:
            raise _Mixes("it is not known to keep samples apart")
        place = self.at[source]
        return None if place is None else self._checked(operator.name, place)

    def _of(self, operator: Operator, result: str, carried: Mapping[str, int]) -> Dimension:
        shape, name = self.graph.values[result].shape, short_name(operator.target)
        if not carried or name in UNIFORM:
            if not _of_samples(shape) and not _asks_samples((operator.args, operator.kwargs)):
                return None
            if name == "arange" and len(shape) == 1 and _many(shape[0]):
                self.numbers.add(result)
                return self._checked(result, 0)
            if name in (*UNIFORM, "expand") and _of_samples(shape):
                return self._checked(result, next(d for d, s in enumerate(shape) if _many(s)))
            raise _Mixes("it makes values from the number of samples")
        if not self.numbers.isdisjoint(operator.inputs):
            if name == "index":
                return self._looked_up(operator, result)
            if name not in (*RESHAPES, "expand", "slice", "to", "_to_copy"):
                raise _Mixes("it takes numbers of samples")
            self.numbers.add(result)
        target: Any = resolve(operator.target) if operator.target.startswith(ATEN + ".") else None
        dimensions = {len(shape) - self._rank(n) + d for n, d in carried.items()}
        if target is None:
            raise _Mixes("it is not known to keep samples apart")
        if torch.Tag.pointwise in target.tags or name in (*ELEMENTWISE, "expand"):
            dimension = _only(dimensions)
        else:
            dimension = self._of_structure(operator, name, result, carried)
        for other in carried:
            if name not in RESHAPES and (
                self._size(other, carried[other]) != self._size(result, dimension)
            ):
                raise _Mixes("it takes samples beside others")
        return self._checked(result, dimension)

    def _of_structure(
        self, operator: Operator, name: str, result: str, carried: Mapping[str, int]
    ) -> int:
        first, dimension = next(iter(carried.items()))
        rank, shape = self._rank(first), self.graph.values[result].shape
        arguments = _arguments(operator)
        if name in RESHAPES:
            return self._reshaped(first, dimension, result)
        if name in ("transpose", "t", "permute"):
            return _turned(name, arguments, rank).index(dimension)
        if name in ALONG and set(carried.values()) == {dimension}:
            if name in ("cat", "stack") and len(carried) < len(operator.inputs):
                raise _Mixes("it puts samples beside what is none")
            self._refuse_mean_of_places(name, arguments, first)
            return self._along(name, arguments, rank, dimension)
        if name == "linear" and list(carried) == [operator.inputs[0]] and dimension < rank - 1:
            return dimension
        if name == "addmm" and list(carried) == [operator.inputs[1]] and dimension == 0:
            return dimension
        if name == "embedding" and list(carried) == [operator.inputs[1]]:
            return dimension
        if name in NORMS and list(carried) == [operator.inputs[0]]:
            if dimension < rank - len(arguments["normalized_shape"]):
                return dimension
        if name in ("pad", "constant_pad_nd") and dimension < rank - len(arguments["pad"]) // 2:
            return dimension
        if name in BY_FIRST and self._by_first(name, operator, carried) and len(shape) > 2:
            return 0
        raise _Mixes("it is not known to keep samples apart")

    def _by_first(self, name: str, operator: Operator, carried: Mapping[str, int]) -> bool:
        """Whether all of its inputs with samples have them in the dimension 0 of the result."""
        if operator.inputs[0] not in carried or set(carried.values()) != {0}:
            return False
        if name.startswith("conv"):
            return list(carried) == [operator.inputs[0]]
        return all(self._rank(n) == self._rank(operator.inputs[0]) > 2 for n in carried)

    def _along(self, name: str, arguments: Mapping[str, Any], rank: int, dimension: int) -> int:
        along = next((arguments[key] for key in ("dim", "dims") if key in arguments), None)
        if along is None or along == ():
            raise _Mixes("it mixes samples")
        of_result = rank + (name == "stack")
        mixed = {d % of_result for d in (along if isinstance(along, Sequence) else (along,))}
        if name == "stack":
            return int(dimension + (min(mixed) <= dimension))
        if name == "slice" and _takes_all(arguments):
            return dimension
        if dimension in mixed:
            raise _Mixes("it mixes samples")
        keeps = arguments.get("keepdim", False) or name not in DROPS
        return dimension if keeps else dimension - sum(d < dimension for d in mixed)

    def _looked_up(self, operator: Operator, result: str) -> int:
        """Each sample by its own number, and by others that are the same for all samples."""
        table, indices = operator.args[0], operator.args[1]
        names = [index.name for index in indices if isinstance(index, Ref)]
        if (
            self.at[table.name] != 0
            or table.name in self.numbers
            or len(names) != len(indices)
            or names[0] not in self.numbers
            or any(self.at[name] is not None for name in names[1:])
            or len(names) != self._rank(table.name)
            or self._size(table.name, 0) != self._size(names[0], self.at[names[0]] or 0)
        ):
            raise _Mixes("it is not known to look up each sample by its own number")
        of_number = self.at[names[0]] or 0
        rank = len(self.graph.values[result].shape)
        return self._checked(result, rank - self._rank(names[0]) + of_number)

    def _refuse_mean_of_places(self, name: str, arguments: Mapping[str, Any], value: str) -> None:
        """Padding changes how many there are. Raises _Mixes."""
        along = arguments.get("dim")
        if name == "mean" and along is not None:
            shape = self.graph.values[value].shape
            for d in along if isinstance(along, Sequence) else (along,):
                if any(length in str(shape[d]) for length in self.graph.lengths):
                    raise _Mixes("it is a mean over places, of which there are more with padding")

    def _reshaped(self, name: str, dimension: int, result: str) -> int:
        """Behind the same dimensions as before, of which 1 is none."""
        before = [s for s in self.graph.values[name].shape[:dimension] if s != 1]
        shape = self.graph.values[result].shape
        for place in range(len(shape)):
            if [s for s in shape[:place] if s != 1] == before and _many(shape[place]):
                return place
        raise _Mixes("it puts other values between samples")

    def _checked(self, result: str, dimension: int) -> int:
        """The one dimension of samples, which has as many rows of each."""
        shape = self.graph.values[result].shape
        others = [size for place, size in enumerate(shape) if place != dimension]
        if not 0 <= dimension < len(shape) or not _many(shape[dimension]) or _of_samples(others):
            raise _Mixes("it puts samples into more than one dimension, or in none")
        sizes = [evaluate(shape[dimension], {**self.graph.sizes(2), "batch": n}) for n in COUNTS]
        if any(s * COUNTS[0] != sizes[0] * n for s, n in zip(sizes, COUNTS, strict=True)):
            raise _Mixes("its size is no multiple of the samples")
        return dimension

    def why_no_loss(self, loss: Operator, reduction: str) -> str:
        """Why a loss is no mean, or sum, of what samples have; "" where it is.

        Raises _Mixes.
        """
        carried = {name: self.at[name] for name in loss.inputs if self.at.get(name) is not None}
        if any(name not in self.at for name in loss.inputs) or not carried:
            raise _Mixes("what it is made of does not follow samples")
        name, arguments = short_name(loss.target), _arguments(loss)
        place = carried.get(loss.inputs[0])
        sizes = {self._size(n, d) for n, d in carried.items() if d is not None}
        known = rule_of(loss.target).loss is not None or name in ("sum", "mean", "mse_loss")
        if not known or len(sizes) != 1 or (name == "mse_loss" and len(carried) != 2):
            return "the loss is no mean or sum that is known"
        if rule_of(loss.target).loss is not None and set(carried.values()) != {0}:
            return "the loss is no mean or sum over samples"
        summed = name == "sum" or arguments.get("reduction", 1) == SUM
        if summed != (reduction == "sum") or arguments.get("reduction", 1) == 0:
            return f"the loss is a {'sum' if summed else 'mean'}, and reduction is {reduction}"
        if summed or reduction == "tokens":
            return ""
        # A mean over samples of their own means, which padding must not change.
        shape = self.graph.values[loss.inputs[0]].shape
        texts = [str(size) for size in shape]
        if place is None or any(length in text for length in self.graph.lengths for text in texts):
            return "the loss is a mean over places, of which a microbatch has as many as it pads to"
        ignores = rule_of(loss.target).loss is not None
        return "" if not ignores or shape[0] == "batch" else "the loss is a mean over labels"

    def _rank(self, name: str) -> int:
        return len(self.graph.values[name].shape)

    def _size(self, name: str, dimension: int) -> int | str:
        return self.graph.values[name].shape[dimension]


def _many(size: int | str) -> bool:
    return isinstance(size, str) and "batch" in size


def _of_samples(shape: Sequence[int | str]) -> bool:
    return any(map(_many, shape))


def _asks_samples(argument: Any) -> bool:
    """Whether a size that follows the samples is among an operator's arguments."""
    if isinstance(argument, tuple):
        return any(map(_asks_samples, argument))
    return isinstance(argument, Sym) and "batch" in argument.expression


def _turned(name: str, arguments: Mapping[str, Any], rank: int) -> list[int]:
    """Which dimension of the input each of the result is."""
    if name == "permute":
        return [d % rank for d in arguments["dims"]]
    order = list(range(rank))
    a, b = arguments.get("dim0", 0) % rank, arguments.get("dim1", 1) % rank
    order[a], order[b] = order[b], order[a]
    return order


def _takes_all(arguments: Mapping[str, Any]) -> bool:
    last = arguments.get("end")
    ends = last is None or (isinstance(last, int) and last >= 2**62)
    return ends and arguments.get("start") in (None, 0) and arguments.get("step", 1) == 1


def _only(dimensions: set[int]) -> int:
    if len(dimensions) != 1:
        raise _Mixes("it takes samples of several dimensions together")
    return next(iter(dimensions))


def _arguments(operator: Operator) -> dict[str, Any]:
    """Arguments that are no tensors by the names of torch's schema, with its defaults."""
    schema = resolve(operator.target)._schema.arguments
    named = {a.name: a.default_value for a in schema if a.has_default_value()}
    named |= {a.name: value for a, value in zip(schema, operator.args, strict=False)}
    named |= dict(operator.kwargs)
    return {name: value for name, value in named.items() if not isinstance(value, Ref)}
