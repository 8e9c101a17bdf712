"""The traced model as plain immutable values: operators, tensors, parameters, buffers."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import networkx as nx

from pipecut.plan.schema import Constant


@dataclass(frozen=True)
class Ref:
    """An argument that is another value of the graph."""

    name: str


@dataclass(frozen=True)
class Sym:
    """An integer argument that depends on the batch: a Python expression in `batch`."""

    expression: str


@dataclass(frozen=True)
class Literal:
    """An argument written as code, such as a dtype; `device` stands for the stage's own device."""

    code: str


@dataclass(frozen=True)
class Value:
    """A tensor. `shape` holds ints and expressions in `batch`; `sizes` and `strides` are those of one microbatch."""

    name: str
    shape: tuple[int | str, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    bytes: int
    needs_grad: bool = False


@dataclass(frozen=True)
class Operator:
    """One call of the traced graph. `contexts` are `with` statements it runs under.

    `draws` are the numbers of its random draws among those of the model, in the order of the model's own calls.
    `args` and `kwargs` are those of training; `modes` has those that are others in eval mode, by position or keyword.
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


@dataclass(frozen=True)
class Parameter:
    """A trainable or frozen tensor of the model; `names` are all its FQNs, more than one when tied."""

    value: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    trainable: bool


@dataclass(frozen=True)
class Buffer:
    """A buffer or a lifted constant. `data` is the tensor itself: small, real, saved with the plan."""

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
    """What the model returns beside its loss: the model's name for it, and its value in the graph."""

    name: str
    value: str


@dataclass(frozen=True)
class Graph:
    """A traced model. Operators stand in program order; `values` has every tensor by name.

    `constants` are the numbers and flags of a batch, by the user's names.
    `left_out` maps what the model returns and a plan cannot hand out to the reason.
    `default_dtype` is the dtype of tensors whose operator names none.
    In eval mode the operators run as they stand; where `evaluation` is set, that runs instead;
    where `refused` is set, it is the reason why nothing can.
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
    left_out: dict[str, str] = field(default_factory=dict)
    evaluation: "Graph | None" = None
    refused: str = ""
    default_dtype: str = "float32"

    def batch_names(self) -> dict[str, str]:
        """The value of each tensor of a batch, to the user's name for it."""
        return {given.value: given.name for given in self.batch_inputs}

    def producers(self) -> dict[str, int]:
        """Value name to the index of the operator that makes it."""
        return {operator.name: index for index, operator in enumerate(self.operators)}

    def roots(self) -> dict[str, str]:
        """A result that may share storage, to the value whose storage that is."""
        return storage_roots(self.operators)

    def dependencies(self) -> "nx.DiGraph[int]":
        """Operators by index; an edge for each use of another operator's result."""
        made = self.producers()
        graph: nx.DiGraph[int] = nx.DiGraph()
        graph.add_nodes_from(range(len(self.operators)))
        for index, operator in enumerate(self.operators):
            graph.add_edges_from((made[name], index) for name in operator.inputs if name in made)
        return graph


def storage_roots(operators: Iterable[Operator]) -> dict[str, str]:
    """A result that may share storage, to the value whose storage that is."""
    roots: dict[str, str] = {}
    for operator in operators:
        if operator.aliases:
            roots[operator.name] = roots.get(operator.aliases[0], operator.aliases[0])
    return roots
