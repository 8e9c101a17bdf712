"""The traced model as plain immutable values: operators, tensors, parameters, buffers."""

import ast
import math
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import networkx as nx

from pipecut.compiler.choices import Check
from pipecut.plan.schema import Constant, Container, Sizes, evaluate
from pipecut.text_table import text_table


@dataclass(frozen=True)
class Ref:
    """An argument that is another value of the graph."""

    name: str

    def __str__(self) -> str:
        return self.name


@lru_cache(maxsize=4096)
def names_in(expression: str) -> frozenset[str]:
    """The names in an expression, but not those of functions and modules."""
    nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    modules = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    names = (n for n in nodes if isinstance(n, ast.Name) and id(n) not in called | modules)
    return frozenset(name.id for name in names)


@dataclass(frozen=True)
class Sym:
    """An integer argument that depends on the batch: a Python expression in its sizes.

    `read` are those among its names that operators of the graph read: sizes that depend on data.
    """

    expression: str
    read: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.expression

    @property
    def symbols(self) -> frozenset[str]:
        """The names of sizes of a batch in it."""
        return names_in(self.expression).difference(self.read)


@dataclass(frozen=True)
class Literal:
    """An argument written as code: a dtype, or a Python literal such as `{'rate': 0.1}`.

    `device` stands for the stage's own device.
    """

    code: str

    def __str__(self) -> str:
        return self.code


class TupleOf(tuple[Any, ...]):
    """An argument that stays a tuple: any other sequence is written as a list."""


class SizeOf(TupleOf):
    """An argument that is a torch.Size."""


@dataclass(frozen=True)
class Value:
    """A tensor.

    `shape` holds ints and expressions in `batch` and the graph's lengths; `sizes` and `strides` are
    for one microbatch.
    `gradient_ends`: it is computed from what is trained, and no gradient comes back to it.
    """

    name: str
    shape: tuple[int | str, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    bytes: int
    needs_grad: bool = False
    gradient_ends: bool = False

    def __str__(self) -> str:
        """`float32[batch, 8] grad`."""
        grad = " grad" if self.needs_grad else ""
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]{grad}"


@dataclass(frozen=True)
class ModuleCall:
    """A call of a module that an operator is made in; `number` counts the module's calls from 0.

    `line` and `targets` are of the statement in the module's forward that leads to the operator:
    its line, and the variables that it assigns. `takes` names what forward takes.
    """

    module: str
    class_name: str
    number: int = 0
    line: int = 0
    targets: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpaqueWork:
    """What one call of an opaque module took, seen with so many samples.

    `saved_inputs` are positions of the operator's inputs that autograd keeps, `saved_bytes` what
    it keeps beside them.
    """

    samples: int
    forward_flops: float
    backward_flops: float
    saved_inputs: tuple[int, ...]
    saved_bytes: int


@dataclass(frozen=True)
class OpaqueCall:
    """A call of a module that is not traced: the user's own, which runs as it is on one stage.

    `module` is its FQN. `arguments` is the call's code with a place for each of the operator's
    arguments, as `{0}, mask={1}`; `imports` are modules of Python that it names. `results`: it
    returns the operator's tensor itself, a tuple or list of all its tensors, or these nested.
    `needs_grad` says of each tensor whether it needs a gradient where what it depends on does.
    `others` says what it returns beside tensors, each by kind and value, as `int 2*batch`.
    `recurrent_dropout`: it has recurrent layers with dropout between them.
    `work` was seen with two batch sizes.
    """

    module: str
    arguments: str
    imports: tuple[str, ...]
    results: typing.Literal["tensor", "tensors", "nested"]
    needs_grad: tuple[bool, ...]
    recurrent_dropout: bool
    work: tuple[OpaqueWork, OpaqueWork]
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operator:
    """One call of the traced graph.

    `args` and `kwargs` are its arguments in training; `modes` has those that differ in eval mode,
    by position or keyword. `inputs` are the values among them.
    `module` is the FQN of the module whose forward makes the call, `source` its file and line.
    `contexts` are the `with` statements it runs under.
    `writes` are inputs it writes to; `aliases` are inputs whose storage its result may share.
    `draws` numbers its random draws among all draws of the model, in program order.
    `calls` are the calls of modules around it, the model's own first, that of `module` last.
    `opaque`: it stands for a call of a module that is not traced; its `inputs` are what the module
    is given, and its parameters and buffers.
    `gives_none` are inputs to which its backward gives no gradient, though they need one.
    """

    name: str
    target: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    inputs: tuple[str, ...]
    module: str
    module_class: str
    source: str
    contexts: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    draws: tuple[int, ...] = ()
    modes: tuple[tuple[int | str, Any], ...] = ()
    calls: tuple[ModuleCall, ...] = ()
    opaque: OpaqueCall | None = None
    gives_none: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`aten.linear.default(x, weight, bias)`, with what else is known of the call."""
        modes = dict(self.modes)
        arguments = [
            *(_argument(value, modes.get(position)) for position, value in enumerate(self.args)),
            *(f"{key}={_argument(value, modes.get(key))}" for key, value in self.kwargs),
        ]
        effects = [
            *(["writes " + ", ".join(self.writes)] if self.writes else []),
            *(["draws " + ", ".join(map(str, self.draws))] if self.draws else []),
            *self.contexts,
        ]
        return "  ".join([f"{self.target}({', '.join(arguments)})", *effects])


@dataclass(frozen=True)
class Parameter:
    """A trainable or frozen tensor of the model; `names` are its FQNs, several when it is tied."""

    value: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    trainable: bool


@dataclass(frozen=True)
class Buffer:
    """A buffer or a lifted constant. `data` is the tensor itself, which is saved with the plan."""

    value: str
    names: tuple[str, ...]
    persistent: bool
    data: Any


@dataclass(frozen=True)
class BatchInput:
    """A tensor of a batch: its value in the graph and the user's name for it.

    A `whole` one goes to every microbatch as it is, where others are split.
    """

    value: str
    name: str
    whole: bool = False


@dataclass(frozen=True)
class Output:
    """What the model returns beside its loss: the model's name for it, its value in the graph."""

    name: str
    value: str


@dataclass(frozen=True)
class TracedLayer:
    """A layer that was traced for others that are equal: its FQN, its module, and its operators.

    `given` are the values that it was called with, `made` those that it made; `form`, `results` and
    `modes` say how to call it (`compiler/trace/stamp/stamped.py`), `summary` which are like it.
    """

    path: str
    module: Any
    form: Any
    results: Any
    modes: tuple[bool, ...]
    given: tuple[str, ...]
    made: tuple[str, ...]
    operators: tuple[str, ...]
    summary: str


@dataclass(frozen=True)
class Origin:
    """Where the model is from: `factory(**args)` with a seed, cast to a precision."""

    factory: str
    args: dict[str, Any]
    seed: int
    precision: str


@dataclass(frozen=True)
class DataSize:
    """A size that only a batch's values tell, such as the number of rows that a mask selects.

    `most` is the most that it can be, as a dimension; of one that is not `bounded`, a guess.
    `share` is how much of that it was for the example batch. `source` is the line that makes it.
    """

    most: int | str
    bounded: bool
    source: str
    share: float = 1.0

    def number(self, sizes: Sizes) -> int:
        """What it usually is, where other sizes are so."""
        return math.ceil(self.share * evaluate(self.most, sizes))


@dataclass(frozen=True)
class Graph:
    """A traced model. Operators stand in program order; `values` has every tensor by name.

    `constants` are the numbers and flags of a batch, by the user's names; `nesting` says which of
    its inputs are within containers.
    `left_out` maps what the model returns and a plan cannot hand out to the reason.
    `default_dtype` is the dtype of tensors whose operator names none.
    In eval mode the operators run as they stand; where `evaluation` is set, that runs instead;
    where `refused` is set, it is the reason why nothing can.
    `stamped` says which layers were traced once for many, a line for each kind. `origin` tells
    stages with opaque modules how to build these. `rehearsal` says why the model's forward was not
    run again after the trace, "" where it was.
    `checks` must hold in every microbatch, or what the model does is not what the graph does.
    `lengths` are the sizes, beside `batch`, that dimensions follow, as `values` has them;
    `shortest` are the least that the graph holds for, where it was traced for the most, and
    `least_samples` the fewest samples.
    `layers` has one of each kind of layers that were traced once for many.
    `data_sizes` are sizes that depend on data, by the names of the operators that read them.
    """

    operators: tuple[Operator, ...]
    values: dict[str, Value]
    parameters: tuple[Parameter, ...]
    buffers: tuple[Buffer, ...]
    batch_inputs: tuple[BatchInput, ...]
    loss: str
    dynamic: bool
    notes: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    constants: dict[str, Constant] = field(default_factory=dict)
    nesting: dict[str, Container] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    evaluation: "Graph | None" = None
    refused: str = ""
    default_dtype: str = "float32"
    stamped: tuple[str, ...] = ()
    origin: Origin | None = None
    checks: tuple[Check, ...] = ()
    lengths: dict[str, int] = field(default_factory=dict)
    shortest: dict[str, int] = field(default_factory=dict)
    rehearsal: str = ""
    least_samples: int = 1
    layers: tuple[TracedLayer, ...] = field(default=(), compare=False, repr=False)
    data_sizes: dict[str, DataSize] = field(default_factory=dict)

    def __str__(self) -> str:
        """Inputs and operators as tables, then outputs and what is different in eval mode."""
        size = "any batch size" if self.dynamic else "a fixed batch size"
        size += "".join(f", any {name} up to {most}" for name, most in self.lengths.items())
        loss = f"loss {self.loss}" if self.loss else "no loss"
        parts = [f"graph of {len(self.operators)} operators for {size}, {loss}"]
        parts += [text_table(("input", "tensor", "name"), self._input_rows())]
        parts += [text_table(("result", "tensor", "module", "call"), self._operator_rows())]
        parts += [f"returns {output.name}: {output.value}" for output in self.outputs]
        parts += [f"leaves out {name}: {reason}" for name, reason in self.left_out.items()]
        parts += [f"note: {note}" for note in self.notes]
        parts += [f"checks that {check}" for check in self.checks]
        parts += [
            f"{name} depends on data: {'at most' if size.bounded else 'about'} {size.most}"
            for name, size in self.data_sizes.items()
        ]
        parts += list(self.stamped)
        parts += [f"eval mode is refused: {self.refused}"] if self.refused else []
        parts += [f"in eval mode: {self.evaluation}"] if self.evaluation else []
        return "\n\n".join(parts)

    def _input_rows(self) -> list[tuple[str, str, str]]:
        rows = []
        for tensor in self.batch_inputs:
            kind = "whole batch input" if tensor.whole else "batch input"
            rows.append((tensor.value, f"{kind} {tensor.name}"))
        for parameter in self.parameters:
            kind = "parameter" if parameter.trainable else "frozen parameter"
            rows.append((parameter.value, f"{kind} {' = '.join(parameter.names)}"))
        for buffer in self.buffers:
            kind = "buffer" if buffer.persistent else "buffer (not saved)"
            rows.append((buffer.value, f"{kind} {' = '.join(buffer.names)}"))
        return [(value, str(self.values[value]), name) for value, name in rows]

    def _operator_rows(self) -> list[tuple[str, str, str, str]]:
        return [
            (
                operator.name,
                str(self.values.get(operator.name, "several tensors")),
                f"{operator.module or '(model)'} {operator.module_class}",
                str(operator),
            )
            for operator in self.operators
        ]

    def sizes(self, microbatch: int) -> dict[str, int]:
        """What dimensions are evaluated for: so many samples, of the graph's lengths."""
        sizes = {"batch": microbatch, **self.lengths}
        for name, size in self.data_sizes.items():
            sizes[name] = size.number(sizes)
        return sizes

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names in its dimensions: `batch` where it is dynamic, and the lengths."""
        return (*(("batch",) if self.dynamic else ()), *self.lengths)

    def batch_names(self) -> dict[str, str]:
        """The value of each tensor of a batch, to the user's name for it."""
        return {tensor.value: tensor.name for tensor in self.batch_inputs}

    def results_of(self, operator: Operator) -> list[str]:
        """The names of the tensors that an operator makes: one, or those in a list."""
        if operator.name in self.values:
            return [operator.name]
        return [name for name in self.values if name.startswith(f"{operator.name}[")]

    def producers(self) -> dict[str, int]:
        """Value name to the index of the operator that makes it."""
        return {operator.name: index for index, operator in enumerate(self.operators)}

    def roots(self) -> dict[str, str]:
        """A result that may share storage, to the value whose storage that is."""
        return storage_roots(self.operators)

    def dependencies(self) -> "nx.DiGraph[int]":
        """Operators by index; an edge for each use of another operator's result."""
        producers = self.producers()
        graph: nx.DiGraph[int] = nx.DiGraph()
        graph.add_nodes_from(range(len(self.operators)))
        for index, operator in enumerate(self.operators):
            graph.add_edges_from(
                (producers[name], index) for name in operator.inputs if name in producers
            )
        return graph


def _argument(value: Any, in_evaluation: Any = None) -> str:
    """An argument as people read it; `0.1 | 0.0` where it differs in eval mode."""
    if in_evaluation is not None:
        return f"{_argument(value)} | {_argument(in_evaluation)}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_argument, value))}]"
    return str(value) if isinstance(value, Ref | Sym | Literal) else repr(value)


def storage_roots(operators: Iterable[Operator]) -> dict[str, str]:
    """A result that may share storage, to the value whose storage that is."""
    roots: dict[str, str] = {}
    for operator in operators:
        if operator.aliases:
            roots[operator.name] = roots.get(operator.aliases[0], operator.aliases[0])
    return roots


def values_behind(operators: Sequence[Operator], value: str) -> set[str]:
    """A value and all that it is computed from, the graph's own inputs included."""
    needed = {value}
    for operator in reversed(operators):
        if operator.name in needed or not needed.isdisjoint(operator.writes):
            needed.update(operator.inputs)
    return needed
