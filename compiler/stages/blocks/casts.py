"""Casts to the dtype that a tensor has: they return it itself, and are not written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipecut.compiler.graph import Graph, Operator, Ref
from pipecut.compiler.operators.lookup import rule_of


@dataclass(frozen=True)
class WithoutCasts:
    """Operators without those casts; `kept` are their positions before.

    `same` has the tensor that each left out cast returns.
    """

    operators: tuple[Operator, ...]
    kept: tuple[int, ...]
    same: Mapping[str, str]


def without_casts(graph: Graph, operators: Sequence[Operator]) -> WithoutCasts:
    """Leave out casts that change nothing."""
    kept, positions = [], []
    same: dict[str, str] = {}
    for position, operator in enumerate(operators):
        renamed = _renamed(operator, same)
        if changes_nothing(graph, operator):
            same[operator.name] = renamed.inputs[0]
        else:
            kept.append(renamed)
            positions.append(position)
    return WithoutCasts(tuple(kept), tuple(positions), same)


def changes_nothing(graph: Graph, operator: Operator) -> bool:
    """Whether an operator returns its input itself."""
    if not rule_of(operator.target).returns_own_dtype or len(operator.args) != 2 or operator.kwargs:
        return False
    given, made = graph.values.get(operator.inputs[0]), graph.values.get(operator.name)
    return given is not None and made is not None and given.dtype == made.dtype


def _renamed(operator: Operator, same: Mapping[str, str]) -> Operator:
    if same.keys().isdisjoint(operator.inputs):
        return operator
    return replace(
        operator,
        args=_argument(operator.args, same),
        kwargs=_argument(operator.kwargs, same),
        inputs=tuple(dict.fromkeys(same.get(name, name) for name in operator.inputs)),
        writes=tuple(same.get(name, name) for name in operator.writes),
        gives_none=tuple(same.get(name, name) for name in operator.gives_none),
        aliases=tuple(dict.fromkeys(same.get(name, name) for name in operator.aliases)),
    )


def _argument(value: Any, same: Mapping[str, str]) -> Any:
    if isinstance(value, Ref):
        return Ref(same.get(value.name, value.name))
    if isinstance(value, tuple):
        return type(value)(_argument(item, same) for item in value)
    return value
