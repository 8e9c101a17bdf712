"""Whether a model does something else with a batch of one sample.

A trace for any batch size is made with two samples or more, and torch.export takes for granted that no size is one: what a
model chooses by `x.shape[0] == 1` is then fixed the wrong way round for one sample.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from pipecut.compiler.costs.arguments import size_of
from pipecut.compiler.graph import Graph, Operator, Ref, Sym
from pipecut.compiler.operators.lookup import rule_of
from pipecut.model.functions import is_machinery


@contextmanager
def noting_choices() -> Iterator[list[str]]:
    """file:line of each place, outside torch, that compares the batch size with an answer that one sample would change."""
    places: list[str] = []
    answer_of: Callable[[torch.SymBool], bool] = torch.SymBool.__bool__

    def answer(self: torch.SymBool) -> bool:
        given = answer_of(self)
        expression: Any = getattr(self.node, "expr", None)
        symbols = getattr(expression, "free_symbols", ())
        caller = sys._getframe(1)
        if symbols and not is_machinery(caller.f_code.co_filename):
            if bool(expression.subs(dict.fromkeys(symbols, 1))) != given:
                places.append(f"{caller.f_code.co_filename}:{caller.f_lineno}")
        return given

    with mock.patch.object(torch.SymBool, "__bool__", answer):
        yield places


def alike_for_one(any_size: Graph, one: Graph) -> bool:
    """Whether two graphs, whose sizes are those of one sample, compute the same; the second was traced with that."""
    return _steps(any_size) == _steps(one)


def _leaves_as_it_is(graph: Graph, operator: Operator) -> bool:
    """Whether an operator's result is what went in, of the same shape.

    torch leaves some such operators out where a dimension is one.
    """
    if not operator.inputs or not rule_of(operator.target).same_values:
        return False
    given, made = graph.values.get(operator.inputs[0]), graph.values.get(operator.name)
    return given is not None and made is not None and given.sizes == made.sizes


def _steps(graph: Graph) -> list[Any]:
    """Operators with their arguments, in which tensors are numbered by their first use."""
    numbers: dict[str, int] = {}
    unused = itertools.count()

    def number(name: str) -> int:
        if name not in numbers:
            numbers[name] = next(unused)
        return numbers[name]

    def written(argument: Any) -> Any:
        if isinstance(argument, Ref):
            return "tensor", number(argument.name)
        if isinstance(argument, Sym):
            return repr(size_of(argument.expression, 1))
        if isinstance(argument, tuple):
            return tuple(map(written, argument))
        return repr(argument)

    steps = []
    for operator in graph.operators:
        if _leaves_as_it_is(graph, operator):
            numbers[operator.name] = number(operator.inputs[0])
            continue
        kwargs = [(name, written(value)) for name, value in operator.kwargs]
        steps.append((operator.target, written(operator.args), kwargs, operator.contexts))
        number(operator.name)
    return steps
