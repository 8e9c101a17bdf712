"""Values of the graph -> tensors of the plan."""

from collections.abc import Collection, Iterable

from pipecut.compiler.choices import Check
from pipecut.compiler.graph import Buffer, Graph, Output, Parameter, Value, values_behind
from pipecut.compiler.stages.cut import Cut
from pipecut.plan.schema import StageTensor, Tensor, ValueCheck


def tensor_of(graph: Graph, name: str) -> Tensor:
    """A value of the graph; its order in memory where that is not the order of its dimensions."""
    value = graph.values[name]
    tensor = Tensor(
        name=name, shape=list(value.shape), dtype=value.dtype, needs_grad=value.needs_grad
    )
    order = memory_order(value)
    return tensor.model_copy(update={"order": order}) if order else tensor


def output_of(graph: Graph, output: Output) -> Tensor:
    """A value that the model returns, by the name it has there."""
    return tensor_of(graph, output.value).model_copy(update={"name": output.name})


def memory_order(value: Value) -> list[int]:
    """Dimensions from the outermost in memory to the innermost.

    Empty where that is their own order, or where elements overlap (stride 0, as `expand` makes).
    """
    sized = zip(value.sizes, value.strides, strict=False)
    if any(stride == 0 for size, stride in sized if size > 1):
        return []
    order = sorted(range(len(value.strides)), key=lambda d: -value.strides[d])
    return order if order != sorted(order) else []


def parameter_of(parameter: Parameter) -> StageTensor:
    """A parameter of a stage."""
    return StageTensor(
        names=list(parameter.names),
        shape=list(parameter.shape),
        dtype=parameter.dtype,
        trainable=parameter.trainable,
    )


def names_of_batch_inputs(graph: Graph, cut: Cut) -> list[str]:
    """The user's names of what a stage takes of the batch."""
    name_of = graph.batch_names()
    return [name_of[value] for value in cut.batch_inputs]


def checks_of(graph: Graph, checks: Iterable[Check]) -> list[ValueCheck]:
    """Choices by a value, with the batch's tensors that each depends on."""
    return [_check_of(graph, check) for check in checks]


def _check_of(graph: Graph, check: Check) -> ValueCheck:
    used, names = values_behind(graph.operators, check.value), graph.batch_names()
    choice = check.choice
    return ValueCheck(
        value=check.value,
        condition=choice.words,
        answer=choice.answer,
        source=choice.source,
        inputs=[name for value, name in names.items() if value in used],
        only_raises=choice.only_raises,
    )


def buffer_of(buffer: Buffer, written: Collection[str]) -> StageTensor:
    """A buffer of a stage; `written` has the values that the stage's forward changes."""
    tensor = StageTensor(
        names=list(buffer.names),
        shape=list(buffer.data.shape),
        dtype=str(buffer.data.dtype).removeprefix("torch."),
        persistent=buffer.persistent,
    )
    return tensor.model_copy(update={"written": True}) if buffer.value in written else tensor
