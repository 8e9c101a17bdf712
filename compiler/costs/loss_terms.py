"""Which labels a loss is the mean over: read off the graph and tried on random labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pipecut.compiler.costs.arguments import concrete
from pipecut.compiler.graph import BatchInput, Graph, Operator
from pipecut.compiler.operators.lookup import ATEN, resolve, rule_of, short_name
from pipecut.errors import TraceError
from pipecut.plan.schema import Sizes, Terms

# How many random tensors of labels are tried, and how likely each label is to be ignored.
TRIALS, IGNORED_SHARE = 8, 0.5
# torch.nn._reduction's number of a sum.
SUM = 2
REMEDY = "leave out reduction: tokens, and weight microbatches by samples"


def terms_of(graph: Graph, microbatch: int) -> Terms:
    """The input with the labels, which label is ignored, and how many start each sample uncounted.

    Raises TraceError when the loss is no mean of a cross entropy over the labels of an input.
    """
    loss = next((o for o in graph.operators if o.name == graph.loss), None)
    where = rule_of(loss.target).loss if loss is not None else None
    if loss is None or where is None or _argument(loss, where.weight, "weight") is not None:
        raise _refusal("the loss is no plain cross entropy, so its terms are not known")
    if _argument(loss, where.reduction, "reduction", where.mean) != where.mean:
        raise _refusal("the loss is no mean")
    ignored = _argument(loss, where.ignore_index, "ignore_index", where.ignored)
    path = _label_path(graph, loss.inputs[1])
    if path.labels.whole:
        raise _refusal(f"every microbatch has all of the labels '{path.labels.value}'")
    shape = graph.values[path.labels.value].sizes
    trials = list(_trials(path, shape, ignored, graph.sizes(microbatch)))
    # A language model predicts from its second label on.
    for skipped in (0, 1):
        terms = Terms(input=path.labels.name, ignored=ignored, skipped=skipped)
        if len(shape) > skipped and all(terms.count(t.labels) == t.counted for t in trials):
            return terms
    raise _refusal(f"it is not clear which labels of '{path.labels.value}' the loss counts")


def sum_over_samples(graph: Graph) -> Operator | None:
    """The operator of the loss, where it adds up what the samples of a microbatch have."""
    loss = next((o for o in graph.operators if o.name == graph.loss), None)
    if loss is None or not loss.inputs or loss.target.partition(".")[0] != ATEN:
        return None
    names = [argument.name for argument in resolve(loss.target)._schema.arguments]
    if "reduction" in names:
        # 1 is a mean, as torch.nn._reduction has it, and the default of all of torch's losses.
        return loss if _argument(loss, names.index("reduction"), "reduction", 1) == SUM else None
    summed = graph.values.get(loss.inputs[0])
    of_samples = summed is not None and any("batch" in str(size) for size in summed.shape)
    return loss if short_name(loss.target) == "sum" and of_samples else None


def _refusal(why: str) -> TraceError:
    return TraceError(f"reduction: tokens: {why}; {REMEDY}")


def _argument(operator: Operator, position: int, name: str, default: Any = None) -> Any:
    if len(operator.args) > position:
        return operator.args[position]
    return dict(operator.kwargs).get(name, default)


@dataclass(frozen=True)
class _LabelPath:
    """The batch input that a loss's target is made of, and the operators that make it, in order."""

    labels: BatchInput
    operators: tuple[Operator, ...]

    def target_of(self, labels: torch.Tensor, sizes: Sizes) -> torch.Tensor:
        """What the loss is compared with, for some labels."""
        values = {self.labels.value: labels}
        target = labels
        for operator in self.operators:
            args = concrete(operator.args, values, sizes)
            kwargs = {name: concrete(value, values, sizes) for name, value in operator.kwargs}
            target = values[operator.name] = resolve(operator.target)(*args, **kwargs)
        return target


def _label_path(graph: Graph, target: str) -> _LabelPath:
    needed = {target}
    for operator in reversed(graph.operators):
        if operator.name in needed:
            needed.update(operator.inputs)
    sources = sorted(needed - {operator.name for operator in graph.operators})
    labels = [tensor for tensor in graph.batch_inputs if [tensor.value] == sources]
    if not labels:
        raise _refusal(f"the loss's labels come from {', '.join(sources)}, not from one input")
    return _LabelPath(labels[0], tuple(o for o in graph.operators if o.name in needed))


@dataclass(frozen=True)
class _Trial:
    """Random labels, and how many of them the loss counts."""

    labels: torch.Tensor
    counted: int


def _trials(
    path: _LabelPath, shape: tuple[int, ...], ignored: int, sizes: Sizes
) -> Iterator[_Trial]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(TRIALS):
        labels = torch.randint(0, 2, shape, generator=generator)
        labels[torch.rand(shape, generator=generator) < IGNORED_SHARE] = ignored
        counted = int((path.target_of(labels, sizes) != ignored).sum())
        yield _Trial(labels, counted)
