"""Small costed graphs made by hand."""

from dataclasses import dataclass, field

from pipecut.compiler.costs.roofline import CostedGraph, OperatorCost
from pipecut.compiler.graph import BatchInput, Graph, Operator, Parameter, Value

KIND = "gpu"


@dataclass
class Sketch:
    """A graph, operator by operator; each has a result of its own name, `loss` is the last."""

    operators: list[Operator] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    costs: list[OperatorCost] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    inputs: list[str] = field(default_factory=lambda: ["x"])
    saved: dict[str, int] = field(default_factory=dict)

    def parameter(self, name: str, size: int = 4) -> None:
        """A trained parameter of 4-byte numbers."""
        self.parameters.append(Parameter(name, (name,), (size // 4,), "float32", size, True))

    def add(
        self,
        name: str,
        *inputs: str,
        seconds: float = 1.0,
        size: int = 8,
        target: str = "aten.relu.default",
        module: str = "",
        writes: tuple[str, ...] = (),
        aliases: tuple[str, ...] = (),
        grad: bool = False,
    ) -> None:
        """An operator of some forward seconds, whose result has `size` bytes."""
        self.operators.append(
            Operator(name, target, (), (), inputs, module, "", "", (), writes, aliases)
        )
        self.values[name] = Value(name, (size,), (size,), (1,), "float32", size, grad)
        self.costs.append(OperatorCost({KIND: seconds}, {KIND: 0.0}, 0, 0))

    def costed(self) -> CostedGraph:
        """The graph with its costs."""
        graph = Graph(
            operators=tuple(self.operators),
            values=self.values,
            parameters=tuple(self.parameters),
            buffers=(),
            batch_inputs=tuple(BatchInput(name, name) for name in self.inputs),
            loss=self.operators[-1].name,
            dynamic=False,
        )
        storage = {name: name for name in self.values}
        return CostedGraph(graph, tuple(self.costs), self.saved, storage)
