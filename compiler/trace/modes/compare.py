"""Operators of training and of eval mode: which stand for each other, how they differ."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

from pipecut.compiler.graph import Operator, Ref
from pipecut.compiler.operators.lookup import resolve

# An argument that differs in eval mode: its position or keyword, and its value there.
Mode = tuple[int | str, Any]


@dataclass(frozen=True)
class Twins:
    """Positions of an operator of training and of the one that stands for it in eval mode."""

    training: int
    evaluation: int


def twins(training: tuple[Operator, ...], evaluation: tuple[Operator, ...]) -> Iterator[Twins]:
    """Operators that stand for each other, in program order: the longest runs of equal calls."""
    first, second = _calls(training), _calls(evaluation)
    if first == second:
        yield from (Twins(index, index) for index in range(len(second)))
        return
    for run in SequenceMatcher(None, second, first).get_matching_blocks():
        yield from (Twins(run.b + offset, run.a + offset) for offset in range(run.size))


def _calls(operators: tuple[Operator, ...]) -> list[tuple[str, str, str]]:
    return [(o.target, o.module, o.source) for o in operators]


def with_defaults(operator: Operator, count: int) -> Operator:
    """The operator with so many positional arguments: tracing leaves defaults out."""
    if len(operator.args) == count or operator.opaque is not None:
        return operator
    named = {key for key, _ in operator.kwargs}
    defaults = resolve(operator.target)._schema.arguments[len(operator.args) : count]
    for argument in defaults:
        if argument.name in named or argument.kwarg_only or not argument.has_default_value():
            return operator
    return replace(operator, args=(*operator.args, *(a.default_value for a in defaults)))


def modes(training: Operator, evaluation: Operator) -> tuple[Mode, ...] | None:
    """Arguments that differ in eval mode; None where more differs than numbers and flags."""
    if (training.target, training.contexts) != (evaluation.target, evaluation.contexts):
        return None
    if _opaque_code(training) != _opaque_code(evaluation):
        return None
    first, second = _arguments(training), _arguments(evaluation)
    if list(first) != list(second):
        return None
    differing = {key: second[key] for key in first if not _same(first[key], second[key])}
    if any(_refers(first[key]) or _refers(second[key]) for key in differing):
        return None
    return tuple(differing.items())


def _opaque_code(operator: Operator) -> tuple[str, ...]:
    """How an opaque module is called; nothing for any other operator."""
    call = operator.opaque
    return () if call is None else (call.module, call.arguments, call.results, *call.imports)


def _arguments(operator: Operator) -> dict[int | str, Any]:
    return {**dict(enumerate(operator.args)), **dict(operator.kwargs)}


def _same(value: Any, other: Any) -> bool:
    # A NaN equals nothing, but is written as another NaN is.
    return type(value) is type(other) and (value == other or repr(value) == repr(other))


def _refers(value: Any) -> bool:
    return any(map(_refers, value)) if isinstance(value, tuple) else isinstance(value, Ref)
