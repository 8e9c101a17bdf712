"""Sizes that depend on data, as a trace of the model's own forward meets them.

The graph has an operator that reads each off a tensor.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils._sympy.printers import PythonPrinter

from pipecut.compiler.choices import Check, Choice
from pipecut.compiler.graph import DataSize, Literal, Operator, Ref, Sym, Value
from pipecut.compiler.operators.data_sizes import guess_of, most_of
from pipecut.compiler.operators.table import NUMBER_AS_TENSOR, SIZE
from pipecut.compiler.trace.data_sizes.asked import AskedSize
from pipecut.compiler.trace.lower.dimensions import DependsOnData, Dimensions, follows_data


@dataclass(frozen=True)
class Assumed:
    """What a trace takes for granted of sizes: the operator that computes it, and its check."""

    operator: Operator
    value: Value
    check: Check


@dataclass(frozen=True)
class TracedCall:
    """A call as the trace has it: tensors and sizes with symbols. `place` is its line."""

    name: str
    function: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    result: Any
    place: str


@dataclass
class DataSizes:
    """The sizes so far, by name; `unread` are those that no operator reads yet.

    `replaced` are symbols that torch found to be equal to others, and so has no more. `by_size` are
    the model's choices.
    """

    dimensions: Dimensions
    by_size: Sequence[AskedSize] = ()
    by_name: dict[str, DataSize] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    replaced: set[Any] = field(default_factory=set)

    def note(self, call: TracedCall) -> None:
        """Name the sizes that a call makes."""
        for size in _sizes(call.result):
            symbol = size.node.expr
            if symbol.is_Symbol and follows_data(symbol) and symbol not in self.dimensions.read:
                self._name(symbol, call)

    def _name(self, symbol: Any, call: TracedCall) -> None:
        most = most_of(call.function, call.args, call.kwargs)
        guess = guess_of((call.args, call.kwargs)) if most is None else most
        dimension = self.dimensions.of(guess)
        size = DataSize(dimension.code, most is not None, call.place)
        name = self._add(size)
        self.unread.append(name)
        self.dimensions.read_from_now(symbol, name, dimension.number)

    def _add(self, size: DataSize) -> str:
        name = f"u{len(self.by_name)}"
        self.by_name[name] = size
        return name

    def readers(self, operator: Operator, value: Value | None) -> Iterator[Operator]:
        """Operators that read sizes which none reads yet off an operator's result."""
        for name in list(self.unread):
            if value is not None and name in value.shape:
                self.unread.remove(name)
                yield _reader(name, operator, value.shape.index(name))

    def equal(self, operator: Operator, call: TracedCall) -> Iterator[Operator | Assumed]:
        """Sizes of a result that torch found to be equal to others: in a run that is checked."""
        result = call.result
        for position, size in enumerate(result.shape if isinstance(result, torch.Tensor) else ()):
            if not isinstance(size, torch.SymInt):
                continue
            own, same = size.node._expr, size.node.expr
            if own == same or own in self.replaced or not follows_data(own):
                continue
            self.replaced.add(own)
            dimension = self.dimensions.of(size)
            name = self._add(DataSize(dimension.code, True, call.place))
            yield _reader(name, operator, position)
            condition = Sym(f"{name} == {dimension.code}", (name, *dimension.read))
            words = f"the condition {condition} on sizes that depend on data"
            yield _assumed(call.name, condition, Choice(words, call.place, True))

    def assertion(self, call: TracedCall) -> Assumed | None:
        """What an assertion of the trace's takes for granted; None where it holds for any data.

        Raises DependsOnData where the graph lacks a size.
        """
        asked = call.args[0]
        if not isinstance(asked, torch.SymBool):
            return None
        if any(asked.node.expr == choice.held for choice in self.by_size):
            return None
        if self.dimensions.read.keys().isdisjoint(asked.node.expr.free_symbols):
            return None
        condition = self._condition(asked.node.expr)
        if not condition.read:
            return None
        words = f"the condition {condition} on sizes that depend on data"
        return _assumed(call.name, condition, Choice(words, call.place, True))

    def choices(self) -> Iterator[Assumed]:
        """What checks choices by sizes. Raises DependsOnData where the graph lacks one."""
        for number, asked in enumerate(self.by_size):
            condition = self._condition(asked.expression)
            choice = Choice(asked.words, asked.place, asked.answer, from_values=True)
            if condition.read:
                yield _assumed(f"choice_{number}", condition, choice)

    def _condition(self, expression: Any) -> Sym:
        symbols = expression.free_symbols
        if any(follows_data(s) and s not in self.dimensions.read for s in symbols):
            raise DependsOnData(
                f"the model chooses by a size that depends on data ({expression}), and makes that "
                "size within a module"
            )
        named = self.dimensions.named(expression)
        names = {str(symbol) for symbol in getattr(named, "free_symbols", ())}
        read = names & self.dimensions.read_names
        return Sym(PythonPrinter().doprint(named), tuple(sorted(read)))


def has_data_sizes(result: Any) -> bool:
    """Whether a result has a size that depends on data, or that torch found to equal another."""
    return any(any(map(follows_data, size.node._expr.free_symbols)) for size in _sizes(result))


def _sizes(result: Any) -> Iterator[torch.SymInt]:
    for tensor in tree_leaves(result):
        if isinstance(tensor, torch.Tensor):
            sizes: Sequence[Any] = tensor.shape
            yield from (size for size in sizes if isinstance(size, torch.SymInt))


def _reader(name: str, operator: Operator, dimension: int) -> Operator:
    return Operator(
        name,
        SIZE,
        (Ref(operator.name), dimension),
        kwargs=(),
        inputs=(operator.name,),
        module=operator.module,
        module_class=operator.module_class,
        source=operator.source,
        calls=operator.calls,
    )


def _assumed(name: str, condition: Sym, choice: Choice) -> Assumed:
    operator = Operator(
        f"{name}_holds",
        NUMBER_AS_TENSOR,
        (condition,),
        kwargs=(("dtype", Literal("torch.bool")), ("device", Literal("device"))),
        inputs=condition.read,
        module="",
        module_class="",
        source=f" ({choice.source})",
    )
    value = Value(operator.name, (), (), (), "bool", 1)
    return Assumed(operator, value, Check(operator.name, choice))
