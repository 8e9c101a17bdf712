"""Whether a model does something else with a batch of one sample.

A trace for any batch size is made with two samples or more, and torch.export takes for granted that
no size is one: what a model chooses by `x.shape[0] == 1` is then wrong for one sample.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import sympy
import torch

from pipecut.compiler.costs.arguments import size_of
from pipecut.compiler.graph import Graph, Operator, Ref, Sym
from pipecut.compiler.operators.lookup import rule_of
from pipecut.compiler.trace.expanding import expands_to_its_own_shape
from pipecut.model.functions import is_machinery


@contextmanager
def noting_choices(samples: int) -> Iterator[list[str]]:
    """Places (file:line) outside torch that compare the batch size, in a trace of `samples`.

    Noted are those whose answer would be another one for a batch of one sample. A length that is
    as many as the samples counts as they do.
    """
    places: list[str] = []
    answer_of: Callable[[torch.SymBool], bool] = torch.SymBool.__bool__

    def answer(self: torch.SymBool) -> bool:
        answered = answer_of(self)
        expression: Any = getattr(self.node, "expr", None)
        symbols = getattr(expression, "free_symbols", ())
        caller = sys._getframe(1)
        if symbols and not is_machinery(caller.f_code.co_filename):
            traced = self.node.shape_env.backed_var_to_val
            ones = {s: sympy.Integer(1) for s, size in traced.items() if size == samples}

            def for_one(size: Any) -> Any:
                return size.node.expr.xreplace(ones) if isinstance(size, torch.SymInt) else size

            other = bool(expression.xreplace(ones).subs(traced)) != answered
            if other and not expands_to_its_own_shape(caller, for_one):
                places.append(f"{caller.f_code.co_filename}:{caller.f_lineno}")
        return answered

    with mock.patch.object(torch.SymBool, "__bool__", answer):
        yield places


def alike_for_one(any_size: Graph, of_one: Graph) -> bool:
    """Whether two graphs compute the same for one sample.

    The sizes of both are those of one sample; the second was traced with one sample.
    """
    return _steps(any_size) == _steps(of_one)


def _leaves_as_it_is(graph: Graph, operator: Operator) -> bool:
    """Whether an operator's result is what went in, of the same shape.

    torch leaves some such operators out where a dimension is one.
    """
    if not operator.inputs or not rule_of(operator.target).same_values:
        return False
    source, result = graph.values.get(operator.inputs[0]), graph.values.get(operator.name)
    return source is not None and result is not None and source.sizes == result.sizes


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
            return repr(size_of(argument.expression, graph.sizes(1)))
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
