"""What a loss is the mean over: which labels count, told from the graph and tried on random ones."""

from typing import Any

import torch

from pipecut.compiler.costs.work import concrete
from pipecut.compiler.graph import Graph, Operator
from pipecut.compiler.operators.lookup import resolve, rule_of
from pipecut.errors import TraceError
from pipecut.plan.schema import Terms

TRIALS = 8
REMEDY = "leave out reduction: tokens, and weigh samples"


def terms_of(graph: Graph, microbatch: int) -> Terms:
    """The input that has the labels, the one that is ignored, and how many at the begin of each sample do not count.

    Raises TraceError when the loss is no mean of a cross entropy over the labels of an input.
    """
    loss = next((o for o in graph.operators if o.name == graph.loss), None)
    where = rule_of(loss.target).loss if loss is not None else None
    if loss is None or where is None or _argument(loss, where.weight, "weight") is not None:
        raise TraceError(
            f"reduction: tokens: the loss is no plain cross entropy, so its terms are not known; {REMEDY}"
        )
    if _argument(loss, where.reduction, "reduction", where.mean) != where.mean:
        raise TraceError(f"reduction: tokens: the loss is no mean; {REMEDY}")
    ignored = _argument(loss, where.ignore_index, "ignore_index", where.ignored)
    labels, path = _labels(graph, loss.inputs[1])
    batch_input = next(given for given in graph.batch_inputs if given.value == labels)
    if batch_input.whole:
        raise TraceError(
            f"reduction: tokens: every microbatch has all of the labels '{labels}'; {REMEDY}"
        )
    shape = graph.values[labels].sizes
    generator = torch.Generator().manual_seed(0)
    trials: list[tuple[torch.Tensor, int]] = []
    for _ in range(TRIALS):
        given = torch.randint(0, 2, shape, generator=generator)
        given[torch.rand(shape, generator=generator) < 0.5] = ignored
        counted = int((_evaluate(path, labels, given, microbatch) != ignored).sum())
        trials.append((given, counted))
    for skipped in (0, 1):
        terms = Terms(input=batch_input.name, ignored=ignored, skipped=skipped)
        if len(shape) > skipped and all(terms.count(given) == counted for given, counted in trials):
            return terms
    raise TraceError(
        f"reduction: tokens: it is not clear which labels of '{labels}' the loss counts; {REMEDY}"
    )


def _argument(operator: Operator, position: int, name: str, default: Any = None) -> Any:
    if len(operator.args) > position:
        return operator.args[position]
    return dict(operator.kwargs).get(name, default)


def _labels(graph: Graph, target: str) -> tuple[str, list[Operator]]:
    """The batch input that a target is made of, and the operators that make it, in order."""
    made = {operator.name: operator for operator in graph.operators}
    needed, waiting = {target}, [target]
    while waiting:
        operator = made.get(waiting.pop())
        for name in operator.inputs if operator is not None else ():
            if name not in needed:
                needed.add(name)
                waiting.append(name)
    sources = sorted(needed - set(made))
    if len(sources) != 1 or sources[0] not in graph.batch_names():
        raise TraceError(
            f"reduction: tokens: what the loss compares with comes from {', '.join(sources)}, not one input; {REMEDY}"
        )
    return sources[0], [operator for operator in graph.operators if operator.name in needed]


def _evaluate(
    path: list[Operator], labels: str, given: torch.Tensor, microbatch: int
) -> torch.Tensor:
    values = {labels: given}
    for operator in path:
        arguments = concrete(operator.args, values, microbatch)
        options = {name: concrete(value, values, microbatch) for name, value in operator.kwargs}
        values[operator.name] = resolve(operator.target)(*arguments, **options)
    return values[path[-1].name if path else labels]
