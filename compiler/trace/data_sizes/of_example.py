"""What sizes that depend on data were for the example batch, where it alone tells them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from pipecut.compiler.costs.arguments import concrete
from pipecut.compiler.graph import DataSize, Graph, Operator, values_behind
from pipecut.compiler.operators.data_sizes import CHOOSE_FROM_FIRST
from pipecut.compiler.operators.lookup import may_draw_random, resolve, short_name
from pipecut.compiler.operators.table import GETITEM
from pipecut.plan.schema import evaluate


def with_shares(graph: Graph, samples: int, batch: Mapping[str, torch.Tensor]) -> Graph:
    """The graph with the share that each size was of its most for a batch of so many samples.

    Without parameters, whose values a trace does not have. A size that follows from these is
    taken to be the most.
    """
    if not graph.data_sizes:
        return graph
    run = _Run(graph, samples, batch)
    sizes = {name: run.with_share(name, size) for name, size in graph.data_sizes.items()}
    return replace(graph, data_sizes=sizes)


class _Run:
    """Computes the values of a graph that depend on no parameter; None stands for others."""

    def __init__(self, graph: Graph, samples: int, batch: Mapping[str, torch.Tensor]) -> None:
        self.graph, self.sizes = graph, graph.sizes(samples)
        self.computed: dict[str, Any] = {b.value: b.data for b in graph.buffers}
        self.computed |= {value: batch[name] for value, name in graph.batch_names().items()}

    def with_share(self, name: str, size: DataSize) -> DataSize:
        """A size with its share."""
        usual = self.sizes[name]
        made = self._made(name)
        if made is None or not usual:
            return size
        self.sizes[name] = made
        return replace(size, share=made / usual)

    def _made(self, size: str) -> int | None:
        """What the operator makes that makes a size; None where only parameters tell."""
        values = self.graph.values
        for operator in self.graph.operators:
            for position, name in enumerate(self.graph.results_of(operator)):
                if size in values[name].shape:
                    results = tree_leaves(self._made_by(operator))
                    tensor = results[position] if position < len(results) else None
                    if not isinstance(tensor, torch.Tensor):
                        return None
                    return tensor.shape[values[name].shape.index(size)]
        return None

    def _made_by(self, operator: Operator) -> Any:
        """An operator's result, which has the right size where its values cannot be known."""
        given = {name: self._value(name) for name in operator.inputs}
        first = operator.inputs[0]
        if given[first] is None and short_name(operator.target) in CHOOSE_FROM_FIRST:
            given[first] = torch.zeros(self._shape(first))
        return self._result(operator, given)

    def _shape(self, name: str) -> list[int]:
        return [evaluate(dimension, self.sizes) for dimension in self.graph.values[name].shape]

    def _value(self, name: str) -> Any:
        """A value; None where it cannot be known."""
        behind = values_behind(self.graph.operators, name)
        if any(operator.writes for operator in self.graph.operators if operator.name in behind):
            return None
        for operator in self.graph.operators:
            if operator.name in behind and operator.name not in self.computed:
                given = {name: self.computed.get(name) for name in operator.inputs}
                self.computed[operator.name] = self._result(operator, given)
        return self.computed.get(name)

    def _result(self, operator: Operator, given: dict[str, Any]) -> Any:
        unknown = any(value is None for value in given.values())
        if unknown or operator.opaque or may_draw_random(operator.target):
            return None
        try:
            if operator.target == GETITEM:
                return given[operator.inputs[0]][operator.args[1]]
            args = concrete(operator.args, given, self.sizes)
            kwargs = {key: concrete(value, given, self.sizes) for key, value in operator.kwargs}
            with torch.no_grad():
                return resolve(operator.target)(*args, **kwargs)
        except Exception:
            # An operator that cannot run here tells nothing.
            return None
