"""graph.json: the traced operators with their costs and stages."""

from pydantic import BaseModel, ConfigDict, Field

from pipecut.plan.schema.numbers import Bytes, Seconds
from pipecut.quantities import counted, show_bytes, show_seconds
from pipecut.text_table import numbers, text_table


class _GraphModel(BaseModel):
    """Frozen and strict. The file has more than is read here: the problem, for `pipecut solve`."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class PlacedOperator(_GraphModel):
    """An operator of training. Seconds are by device kind; `stages` is there where several make it.

    `saved_bytes` are kept from forward to backward, `transient_bytes` taken while it runs.
    """

    name: str
    target: str
    module: str
    source: str
    inputs: tuple[str, ...]
    stage: int
    stages: tuple[int, ...] = ()
    forward_seconds: dict[str, Seconds]
    backward_seconds: dict[str, Seconds]
    saved_bytes: Bytes
    transient_bytes: Bytes

    @property
    def placed_on(self) -> tuple[int, ...]:
        """The stages that run it: several, where each makes for itself what depends on no input."""
        return self.stages or (self.stage,)


class EvaluationOperator(_GraphModel):
    """An operator of eval mode."""

    name: str
    target: str
    module: str
    inputs: tuple[str, ...]
    stage: int

    @property
    def placed_on(self) -> tuple[int, ...]:
        """The stage that runs it."""
        return (self.stage,)


class GraphValue(_GraphModel):
    """A tensor of one microbatch; dimensions are integers or expressions in `batch`."""

    shape: tuple[int | str, ...]
    dtype: str
    bytes: Bytes
    needs_grad: bool


class GraphBuffer(_GraphModel):
    """A buffer or a constant: the operators know it as `value`, the user's model by its `names`."""

    value: str
    names: tuple[str, ...] = Field(min_length=1)


class GraphParameter(GraphBuffer):
    """A parameter, likewise."""

    bytes: Bytes
    trainable: bool


class EvaluationGraph(_GraphModel):
    """The operators of eval mode, where those differ; `outputs` by the model's own names."""

    loss: str
    operators: tuple[EvaluationOperator, ...]
    outputs: dict[str, str]
    buffers: tuple[GraphBuffer, ...]


class PlanGraph(_GraphModel):
    """The graph of a plan."""

    loss: str
    operators: tuple[PlacedOperator, ...]
    values: dict[str, GraphValue]
    parameters: tuple[GraphParameter, ...]
    buffers: tuple[GraphBuffer, ...]
    evaluation: EvaluationGraph | None = None

    def __str__(self) -> str:
        """Operators as a table, with their stages, seconds by device kind and bytes for backward.

        Then the operators of eval mode, where those differ.
        """
        loss = f"loss {self.loss}" if self.loss else "no loss"
        counts = (
            counted(len(self.operators), "operator"),
            counted(len(self.parameters), "parameter"),
            counted(len(self.buffers), "buffer"),
        )
        titles = ("stage", "result", "module", "operator", "forward", "backward", "saves")
        parts = [f"placed graph of {', '.join(counts)}, {loss}"]
        parts += [text_table(titles, [_row(operator) for operator in self.operators])]
        if self.evaluation is not None:
            rows = [(str(o.stage), o.name, o.module, o.target) for o in self.evaluation.operators]
            parts += ["in eval mode:", text_table(titles[:4], rows)]
        return "\n\n".join(parts)


def _row(operator: PlacedOperator) -> tuple[str, ...]:
    return (
        numbers(operator.placed_on),
        operator.name,
        operator.module,
        operator.target,
        _seconds(operator.forward_seconds),
        _seconds(operator.backward_seconds),
        show_bytes(operator.saved_bytes),
    )


def _seconds(by_kind: dict[str, float]) -> str:
    """`1 ms`, or with the kinds of several: `h100 1 ms, a100 2 ms`."""
    if len(by_kind) == 1:
        return show_seconds(*by_kind.values())
    return ", ".join(f"{kind} {show_seconds(seconds)}" for kind, seconds in by_kind.items())
