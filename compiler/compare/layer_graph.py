"""A layer's operators as a graph of their own, whose loss weighs all that the layer makes.

What the layer is given from others that have parameters is an input, and gets random numbers. What
follows from the batch alone - masks, positions - is computed, so that it is what it would be.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipecut.compiler.graph import BatchInput, Graph, Operator, Ref, TracedLayer, Value
from pipecut.compiler.operators.table import PRODUCT, SUM_OF_TWO, TOTAL

# Begins the names of what only the comparison has.
OWN = "compared"
DIFFERENTIABLE = ("float", "bfloat")


class NotByItself(Exception):
    """A layer cannot run without the others; the text says why."""


@dataclass(frozen=True)
class LayerGraph:
    """`graph` computes the loss; its first `before` operators only what the layer is given.

    `drawn` are values that get random numbers; `weights` those that results are multiplied with, by
    their values' names.
    """

    graph: Graph
    before: int
    drawn: tuple[Value, ...]
    weights: dict[str, Value]


def graph_of_layer(graph: Graph, layer: TracedLayer) -> LayerGraph:
    """Raises NotByItself."""
    names = frozenset(layer.operators)
    inside = [operator for operator in graph.operators if operator.name in names]
    first = next(i for i, operator in enumerate(graph.operators) if operator.name in names)
    given = _from_outside(inside)
    _refuse_others(graph, layer, inside, given)
    drawn = _from_others(graph, graph.operators[:first], given)
    before = _behind(graph.operators[:first], [name for name in given if name not in drawn])
    made = [name for name in layer.made if _is_weighed(graph, inside, name)]
    if not made:
        raise NotByItself("it makes no real numbers")
    weights = {
        name: replace(graph.values[name], name=f"{OWN}_weight_{i}", needs_grad=False)
        for i, name in enumerate(made)
    }
    extra = tuple(graph.values[name] for name in sorted(drawn))
    alone = _alone(graph, [*before, *inside], weights, extra)
    return LayerGraph(alone, len(before), extra, weights)


def _alone(
    graph: Graph, operators: Sequence[Operator], weights: dict[str, Value], extra: Sequence[Value]
) -> Graph:
    """The graph of these operators and of a loss; `extra` are inputs beside those of a batch."""
    loss, made = _loss(weights, graph.values)
    used = _from_outside(operators)
    values = {value.name: value for value in (*weights.values(), *made)}
    inputs = (BatchInput(value.name, value.name) for value in (*extra, *weights.values()))
    return replace(
        graph,
        operators=(*operators, *loss),
        values={**graph.values, **values},
        parameters=tuple(p for p in graph.parameters if p.value in used),
        buffers=tuple(b for b in graph.buffers if b.value in used),
        batch_inputs=(*graph.batch_inputs, *inputs),
        loss=loss[-1].name,
        outputs=(),
        checks=(),
        layers=(),
        evaluation=None,
    )


def _from_others(graph: Graph, before: Sequence[Operator], given: Iterable[str]) -> set[str]:
    """What other layers hand on, of what is given. Raises NotByItself for whole numbers."""
    held = {p.value for p in graph.parameters} | {b.value for b in graph.buffers}
    learnt = _following_parameters(graph, before)
    drawn = {name for name in given if name not in held and _whole(name) in learnt}
    if any(not graph.values[name].dtype.startswith(DIFFERENTIABLE) for name in drawn):
        raise NotByItself("other layers compute whole numbers that it takes")
    return drawn


def _refuse_others(
    graph: Graph, layer: TracedLayer, inside: Sequence[Operator], given: Iterable[str]
) -> None:
    """Raises NotByItself for a layer that uses another's tensors, or runs as it is."""
    if any(operator.opaque is not None for operator in inside):
        raise NotByItself("it has a module that runs as it is")
    held = {parameter.value: parameter.names for parameter in graph.parameters}
    held |= {buffer.value: buffer.names for buffer in graph.buffers}
    for name in given:
        names = held.get(name)
        if names and not any(fqn.startswith(f"{layer.path}.") for fqn in names):
            raise NotByItself(f"it uses {names[0]}")
    if any(name in held for name in layer.given):
        raise NotByItself("it is given a parameter or buffer")


def _from_outside(operators: Sequence[Operator]) -> list[str]:
    """What operators use and do not make, in order."""
    made = {operator.name for operator in operators}
    used = dict.fromkeys(name for operator in operators for name in operator.inputs)
    return [name for name in used if _whole(name) not in made]


def _following_parameters(graph: Graph, operators: Sequence[Operator]) -> set[str]:
    """Results that depend on a parameter or a random draw."""
    follow = {parameter.value for parameter in graph.parameters}
    for operator in operators:
        if operator.draws or not follow.isdisjoint(map(_whole, operator.inputs)):
            follow.update((operator.name, *map(_whole, operator.writes)))
    return follow


def _whole(name: str) -> str:
    """The operator that makes a value, which may be one of several."""
    return name.partition("[")[0]


def _behind(operators: Sequence[Operator], names: Iterable[str]) -> list[Operator]:
    """The operators that make what these names stand for."""
    needed = set(map(_whole, names))
    behind = []
    for operator in reversed(operators):
        if operator.name in needed or not needed.isdisjoint(map(_whole, operator.writes)):
            needed.update(map(_whole, operator.inputs))
            behind.append(operator)
    return behind[::-1]


def _is_weighed(graph: Graph, inside: Sequence[Operator], name: str) -> bool:
    made = any(operator.name == _whole(name) for operator in inside)
    return made and graph.values[name].dtype.startswith(DIFFERENTIABLE)


def _loss(
    weights: dict[str, Value], values: dict[str, Value]
) -> tuple[list[Operator], list[Value]]:
    """The sum of results times weights, operators and what they make."""
    operators: list[Operator] = []
    made: list[Value] = []
    total = ""
    for index, (name, weight) in enumerate(weights.items()):
        product, part = f"{OWN}_product_{index}", f"{OWN}_sum_{index}"
        scalar = Value(part, (), (), (), weight.dtype, 8, values[name].needs_grad)
        made += [replace(values[name], name=product), scalar]
        operators.append(_operator(product, PRODUCT, name, weight.name))
        operators.append(_operator(part, TOTAL, product))
        if total:
            added = f"{OWN}_total_{index}"
            made.append(replace(scalar, name=added, needs_grad=True))
            operators.append(_operator(added, SUM_OF_TWO, total, part))
            part = added
        total = part
    return operators, made


def _operator(name: str, target: str, *inputs: str) -> Operator:
    return Operator(name, target, tuple(map(Ref, inputs)), (), inputs, "", "", "")
