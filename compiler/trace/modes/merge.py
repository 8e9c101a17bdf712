"""The graph of eval mode under the training graph's names, for what both have."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch

from pipecut.compiler.graph import Buffer, Graph, Operator, Ref, Value
from pipecut.compiler.trace.modes.compare import Mode, modes, twins, with_defaults

# Added to the name of a constant that only eval mode has.
SUFFIX = "_in_evaluation"


def merged(training: Graph, evaluation: Graph) -> Graph:
    """The graph of eval mode, its operators and values named as in training where those do."""
    return _Merging(training, evaluation).graph()


class _Merging:
    def __init__(self, training: Graph, evaluation: Graph) -> None:
        self.training, self.evaluation = training, evaluation
        self.training_parts, self.evaluation_parts = _parts(training), _parts(evaluation)
        # A value's name in eval mode, to its name in the merged graph.
        self.names = _names_of_inputs(training, evaluation)
        self.taken = {*training.values, *(operator.name for operator in training.operators)}

    def graph(self) -> Graph:
        graph = self.evaluation
        buffers = self._buffers()
        pairs = twins(self.training.operators, graph.operators)
        twin_of = {pair.evaluation: self.training.operators[pair.training] for pair in pairs}
        operators = tuple(
            self._operator(operator, twin_of.get(position))
            for position, operator in enumerate(graph.operators)
        )
        values = (replace(value, name=self._name(name)) for name, value in graph.values.items())
        return replace(
            graph,
            operators=operators,
            values={value.name: value for value in values},
            parameters=self.training.parameters,
            buffers=buffers,
            batch_inputs=tuple(
                replace(batch_input, value=self._name(batch_input.value))
                for batch_input in graph.batch_inputs
            ),
            loss=self._name(graph.loss),
            checks=tuple(replace(check, value=self._name(check.value)) for check in graph.checks),
            outputs=tuple(
                replace(output, value=self._name(output.value)) for output in graph.outputs
            ),
        )

    def _buffers(self) -> tuple[Buffer, ...]:
        """The training graph's buffers, and constants that only eval mode has."""
        by_name = {buffer.names[0]: buffer for buffer in self.training.buffers}
        buffers = list(self.training.buffers)
        for buffer in self.evaluation.buffers:
            twin = by_name.get(buffer.names[0])
            if twin is not None and _equal(twin.data, buffer.data):
                self.names[buffer.value] = twin.value
                continue
            value, name = buffer.value + SUFFIX, buffer.names[0] + SUFFIX
            self.names[buffer.value] = value
            buffers.append(replace(buffer, value=value, names=(name,)))
        return tuple(buffers)

    def _operator(self, operator: Operator, twin: Operator | None) -> Operator:
        """The twin with the arguments of both modes, or the operator under a name of its own."""
        renamed = self._renamed(operator)
        if twin is not None and self._same_results(twin.name, operator.name):
            count = max(len(twin.args), len(renamed.args))
            twin, renamed = with_defaults(twin, count), with_defaults(renamed, count)
            differing = modes(twin, renamed)
            if differing is not None:
                self._rename_result(operator.name, twin.name)
                return _merged_operator(twin, renamed, differing)
        name = operator.name
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        self._rename_result(operator.name, name)
        return replace(renamed, name=name)

    def _same_results(self, training: str, evaluation: str) -> bool:
        """Whether two results have the same shapes and dtypes."""
        first = (training, *self.training_parts[training])
        second = (evaluation, *self.evaluation_parts[evaluation])
        return len(first) == len(second) and all(
            _same_tensor(self.training.values.get(a), self.evaluation.values.get(b))
            for a, b in zip(first, second, strict=True)
        )

    def _rename_result(self, old: str, new: str) -> None:
        self.names[old] = new
        for part in self.evaluation_parts[old]:
            self.names[part] = new + part.removeprefix(old)

    def _name(self, name: str) -> str:
        return self.names.get(name, name)

    def _renamed(self, operator: Operator) -> Operator:
        """The operator with its inputs under their names in the merged graph."""
        return replace(
            operator,
            args=self._argument(operator.args),
            kwargs=self._argument(operator.kwargs),
            inputs=tuple(dict.fromkeys(map(self._name, operator.inputs))),
            aliases=tuple(map(self._name, operator.aliases)),
            writes=tuple(map(self._name, operator.writes)),
            gives_none=tuple(map(self._name, operator.gives_none)),
        )

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, Ref):
            return Ref(self._name(argument.name))
        if isinstance(argument, tuple):
            return type(argument)(map(self._argument, argument))
        return argument


def _merged_operator(
    training: Operator, evaluation: Operator, differing: tuple[Mode, ...]
) -> Operator:
    return replace(
        training,
        inputs=evaluation.inputs,
        aliases=evaluation.aliases,
        writes=evaluation.writes,
        draws=evaluation.draws,
        modes=differing,
    )


def _names_of_inputs(training: Graph, evaluation: Graph) -> dict[str, str]:
    """Parameters and batch inputs of eval mode, to their names in training."""
    parameters = {parameter.names[0]: parameter.value for parameter in training.parameters}
    batch = {batch_input.name: batch_input.value for batch_input in training.batch_inputs}
    return {
        **{parameter.value: parameters[parameter.names[0]] for parameter in evaluation.parameters},
        **{tensor.value: batch[tensor.name] for tensor in evaluation.batch_inputs},
    }


def _parts(graph: Graph) -> dict[str, list[str]]:
    """Names of the tensors in each result that has several."""
    parts: dict[str, list[str]] = defaultdict(list)
    for name in graph.values:
        if name.endswith("]"):
            parts[name[: name.rindex("[")]].append(name)
    return parts


def _same_tensor(value: Value | None, other: Value | None) -> bool:
    if value is None or other is None:
        return value is other
    return (value.shape, value.dtype) == (other.shape, other.dtype)


def _equal(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal bit for bit."""
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        return False
    first, second = (t.contiguous().flatten().view(torch.uint8) for t in (tensor, other))
    return torch.equal(first, second)
