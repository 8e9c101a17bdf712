"""What runs in eval mode: the training graph's own operators where they do, else a graph of its own.

Both are compared operator by operator. One that differs in its numbers and flags alone, as dropout does, is written once and
asks `self.training`. Where operators themselves differ, the graph of eval mode is kept beside the other, and what both have
goes by the same name.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

import torch

from pipecut.compiler.graph import Buffer, Graph, Operator, Ref, Value
from pipecut.compiler.operators.lookup import resolve, rule_of


def with_evaluation(training: Graph, evaluated: Graph) -> Graph:
    """The training graph, with what eval mode runs. `evaluated` has every operator that its loss and outputs need."""
    merged = _Merging(training, evaluated).graph()
    twins = {operator.name: operator for operator in merged.operators}
    made = {operator.name for operator in training.operators}
    operators = tuple(
        replace(operator, args=twins[operator.name].args, modes=twins[operator.name].modes)
        if operator.name in twins and twins[operator.name].modes
        else operator
        for operator in training.operators
    )
    outputs = tuple(output for output in merged.outputs if output.value in made)
    result = replace(training, operators=operators, outputs=outputs, left_out=merged.left_out)
    return result if _serves(result, merged) else replace(result, evaluation=merged)


def flags_alone(operators: Sequence[Operator], dropouts: int) -> bool:
    """Whether the traced model drops in no other way than so many calls that asked for its mode, and norms in none."""
    drops = [operator for operator in operators if _drops(operator)]
    others = [operator for operator in operators if operator.draws and not _drops(operator)]
    norms = [operator for operator in operators if rule_of(operator.target).statistics]
    return len(drops) == dropouts and not others and not norms


def without_dropout(training: Graph) -> Graph:
    """The graph as it is traced in eval mode, where dropout's flag is all that differs."""
    operators = [
        _in_evaluation(operator) if _drops(operator) else operator
        for operator in training.operators
    ]
    return replace(training, operators=tuple(operators))


def _drops(operator: Operator) -> bool:
    rule = rule_of(operator.target)
    return rule.drops and operator.args[rule.training_flag :] == (True,)


def _in_evaluation(dropout: Operator) -> Operator:
    flag = rule_of(dropout.target).training_flag
    return replace(dropout, args=(*dropout.args[:flag], False), draws=())


def _serves(training: Graph, evaluated: Graph) -> bool:
    """Whether the training graph run in eval mode computes what the other one does."""
    position = {operator.name: index for index, operator in enumerate(training.operators)}
    own = [position.get(operator.name, -1) for operator in evaluated.operators]
    if min(own, default=0) < 0 or own != sorted(own):
        return False
    if training.loss != evaluated.loss or training.dynamic != evaluated.dynamic:
        return False
    # The numbers of what is drawn are counted in each mode by itself.
    if any(
        operator.draws not in ((), training.operators[at].draws)
        for operator, at in zip(evaluated.operators, own, strict=True)
    ):
        return False
    # What training does besides must leave no trace in what eval mode reads.
    roots, read = (
        training.roots(),
        {name for operator in evaluated.operators for name in operator.inputs},
    )
    read = {roots.get(name, name) for name in read} | read
    both = {operator.name for operator in evaluated.operators}
    written = {
        roots.get(n, n)
        for o in training.operators
        if o.name not in both
        for n in (*o.writes, o.name)
        if o.writes
    }
    return not written & read


@dataclass
class _Merging:
    """Gives the operators and values of eval mode the names that training has for them."""

    training: Graph
    evaluated: Graph

    def __post_init__(self) -> None:
        self.names: dict[str, str] = {}
        self.buffers = self._held()
        self.taken = {
            *self.training.values,
            *(operator.name for operator in self.training.operators),
        }
        self.parts = _parts(self.training), _parts(self.evaluated)

    def graph(self) -> Graph:
        """The graph of eval mode under these names."""
        graph = self.evaluated
        twins = dict(_pairs(self.training.operators, graph.operators))
        operators = [
            self._operator(operator, twins.get(index))
            for index, operator in enumerate(graph.operators)
        ]
        values = {
            self._name(name): replace(value, name=self._name(name))
            for name, value in graph.values.items()
        }
        return replace(
            graph,
            operators=tuple(operators),
            values=values,
            parameters=self.training.parameters,
            buffers=self.buffers,
            batch_inputs=tuple(
                replace(given, value=self._name(given.value)) for given in graph.batch_inputs
            ),
            loss=self._name(graph.loss),
            outputs=tuple(
                replace(output, value=self._name(output.value)) for output in graph.outputs
            ),
        )

    def _held(self) -> tuple[Buffer, ...]:
        """Names parameters, buffers and batch inputs. The training graph's buffers, and constants of eval mode alone."""
        graph, known = self.evaluated, {b.names[0]: b for b in self.training.buffers}
        by_name = {p.names[0]: p.value for p in self.training.parameters}
        self.names |= {p.value: by_name[p.names[0]] for p in graph.parameters}
        value_of = {given.name: given.value for given in self.training.batch_inputs}
        self.names |= {given.value: value_of[given.name] for given in graph.batch_inputs}
        buffers = list(self.training.buffers)
        for buffer in graph.buffers:
            same = known.get(buffer.names[0])
            if same is not None and _equal(same.data, buffer.data):
                self.names[buffer.value] = same.value
                continue
            own = f"{buffer.value}_in_evaluation"
            self.names[buffer.value] = own
            buffers.append(replace(buffer, value=own, names=(f"{buffer.names[0]}_in_evaluation",)))
        return tuple(buffers)

    def _operator(self, operator: Operator, at: int | None) -> Operator:
        """As training has it where that is the same; else under a name that training does not have."""
        args, kwargs = self._renamed(operator.args), self._renamed(operator.kwargs)
        inputs = tuple(dict.fromkeys(self._name(name) for name in operator.inputs))
        aliases, writes = (
            tuple(map(self._name, names)) for names in (operator.aliases, operator.writes)
        )
        own = replace(
            operator, args=args, kwargs=kwargs, inputs=inputs, aliases=aliases, writes=writes
        )
        twin = self.training.operators[at] if at is not None else None
        modes = None
        if twin is not None and self._agree(twin.name, operator.name):
            count = max(len(twin.args), len(own.args))
            twin, own = _with_defaults(twin, count), _with_defaults(own, count)
            modes = _modes(twin, own)
        if twin is not None and modes is not None:
            self._call(operator.name, twin.name)
            draws = operator.draws
            return replace(
                twin, inputs=inputs, aliases=aliases, writes=writes, modes=modes, draws=draws
            )
        name = operator.name
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        self._call(operator.name, name)
        return replace(own, name=name)

    def _agree(self, name: str, other: str) -> bool:
        """Whether a training result and one of eval mode have the same shapes and dtypes."""

        mine, theirs = self.training.values, self.evaluated.values
        pairs = zip(
            (name, *self.parts[0].get(name, ())),
            (other, *self.parts[1].get(other, ())),
            strict=False,
        )
        same = len(self.parts[0].get(name, ())) == len(self.parts[1].get(other, ()))
        return same and all(_facts(mine.get(a)) == _facts(theirs.get(b)) for a, b in pairs)

    def _call(self, old: str, new: str) -> None:
        self.names[old] = new
        self.names |= {part: new + part.removeprefix(old) for part in self.parts[1].get(old, ())}

    def _name(self, name: str) -> str:
        return self.names.get(name, name)

    def _renamed(self, value: Any) -> Any:
        if isinstance(value, Ref):
            return Ref(self._name(value.name))
        return tuple(map(self._renamed, value)) if isinstance(value, tuple) else value


def _parts(graph: Graph) -> dict[str, list[str]]:
    """Names of the tensors in a result that has several."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in graph.values:
        if name.endswith("]"):
            found[name[: name.rindex("[")]].append(name)
    return found


def _facts(value: Value | None) -> tuple[Any, ...] | None:
    return (value.shape, value.dtype) if value is not None else None


def _pairs(
    training: tuple[Operator, ...], evaluated: tuple[Operator, ...]
) -> Iterator[tuple[int, int]]:
    """Operators of eval mode with those of training that stand in their place, by position."""
    first, second = (
        [(o.target, o.module, o.source) for o in operators] for operators in (training, evaluated)
    )
    if first == second:
        yield from ((index, index) for index in range(len(second)))
        return
    for block in SequenceMatcher(None, second, first).get_matching_blocks():
        yield from ((block.a + offset, block.b + offset) for offset in range(block.size))


def _with_defaults(operator: Operator, count: int) -> Operator:
    """With so many positional arguments: tracing leaves away what is the default."""
    if len(operator.args) == count:
        return operator
    named = {key for key, _ in operator.kwargs}
    rest = resolve(operator.target)._schema.arguments[len(operator.args) : count]
    if any(
        argument.name in named or argument.kwarg_only or not argument.has_default_value()
        for argument in rest
    ):
        return operator
    return replace(operator, args=(*operator.args, *(argument.default_value for argument in rest)))


def _modes(twin: Operator, own: Operator) -> tuple[tuple[int | str, Any], ...] | None:
    """Arguments of eval mode that are others than in training; None where these are not numbers and flags alone."""
    if (twin.target, twin.contexts) != (own.target, own.contexts) or len(twin.args) != len(
        own.args
    ):
        return None
    if [key for key, _ in twin.kwargs] != [key for key, _ in own.kwargs]:
        return None
    keys: list[int | str] = [*range(len(twin.args)), *(key for key, _ in twin.kwargs)]
    values, others = ([*o.args, *(value for _, value in o.kwargs)] for o in (twin, own))
    differing = [
        (key, value, other)
        for key, value, other in zip(keys, values, others, strict=True)
        if not _same(value, other)
    ]
    if any(_refers(value) or _refers(other) for _, value, other in differing):
        return None
    return tuple((key, other) for key, _, other in differing)


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and (value == other or repr(value) == repr(other))


def _refers(value: Any) -> bool:
    return any(map(_refers, value)) if isinstance(value, tuple) else isinstance(value, Ref)


def _equal(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit."""
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        return False
    first, second = (t.contiguous().flatten().view(torch.uint8) for t in (tensor, other))
    return torch.equal(first, second)
