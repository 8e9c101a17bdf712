"""Which results of a graph are views, and whose storage they have."""

from pipecut.compiler.graph import Graph, Operator
from pipecut.compiler.operators.lookup import rule_of
from pipecut.compiler.operators.rule import ViewWhen


def storages(graph: Graph) -> dict[str, str]:
    """Each value, to the value that made its storage.

    A result of the same size at an offset counts as a view.
    """
    makers = {name: name for name in graph.values}
    for operator in graph.operators:
        if operator.aliases and _is_view(operator, graph):
            makers[operator.name] = makers.get(operator.aliases[0], operator.aliases[0])
    return makers


def _is_view(operator: Operator, graph: Graph) -> bool:
    source, result = graph.values.get(operator.aliases[0]), graph.values.get(operator.name)
    if source is None or result is None:
        return True
    match rule_of(operator.target).view_when:
        case ViewWhen.ALWAYS:
            return True
        case ViewWhen.SAME_DTYPE:
            return source.dtype == result.dtype
        case ViewWhen.SAME_STRIDES:
            return source.strides == result.strides
        case ViewWhen.DENSE_INPUT:
            return _contiguous(source.sizes, source.strides)
        case ViewWhen.NOTHING_DROPPED:
            _, chance, training = (*operator.args, None, None)[:3]
            return chance == 0.0 or training is False


def _contiguous(sizes: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    dense_stride = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=False):
        if size != 1 and stride != dense_stride:
            return False
        dense_stride *= size
    return True
