"""An exported stage as an ONNX graph, under the plan's names and the model's FQNs."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch.export import ExportedProgram

from pipecut.errors import PlanError
from pipecut.model.quiet_export import quiet
from pipecut.onnx.modules import Modules
from pipecut.onnx.program import STAGE, StageCall
from pipecut.plan.schema import Tensor

PREFIX = f"{STAGE}."
# Operators that draw random numbers: no other runtime draws torch's.
DRAWING = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}


def graph_of(program: ExportedProgram, call: StageCall, modules: Modules) -> ir.Model:
    """The stage as ONNX. What the model holds are inputs, by FQN: `inputs_of` tells them apart.

    Of what the stage takes, only what its outputs need is left. What it writes to buffers is lost
    after the batch, as it is in `Pipeline.predict`. Raises PlanError where ONNX cannot say what the
    stage does, and what the exporter raises.
    """
    with quiet(), torch.no_grad():
        exported = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    assert exported is not None
    model = exported.model
    _hold_as_inputs(model.graph, call)
    modules.write(model.graph)
    with quiet():
        optimizer.optimize_ir(model)
    finish(model, call, modules)
    return model


def finish(model: ir.Model, call: StageCall, modules: Modules) -> None:
    """Name what an optimized graph has, and drop inputs that it does not need. Raises PlanError."""
    modules.write_missing(model.graph)
    _refuse_draws(model.graph, call, modules)
    _name(model.graph, call)
    _drop_unused(model.graph)
    model.graph.name = f"stage_{call.stage.index}"


@dataclass(frozen=True)
class Inputs:
    """The inputs of a graph: what a stage takes, and what it holds."""

    taken: tuple[ir.Value, ...]
    held: tuple[ir.Value, ...]


def inputs_of(model: ir.Model, call: StageCall) -> Inputs:
    """Tell apart what stands for a batch input or another stage's tensor from parameters."""
    held = set(_first_names(call))
    return Inputs(
        tuple(value for value in model.graph.inputs if value.name not in held),
        tuple(value for value in model.graph.inputs if value.name in held),
    )


def _first_names(call: StageCall) -> dict[str, str]:
    """Of each FQN that the stage holds a tensor under, the first one of that tensor."""
    tensors = (*call.stage.parameters, *call.stage.buffers)
    return {name: tensor.names[0] for tensor in tensors for name in tensor.names}


def _hold_as_inputs(graph: ir.Graph, call: StageCall) -> None:
    """Make inputs of parameters and buffers, so that none is folded into constants."""
    first_names = _first_names(call)
    for name, value in list(graph.initializers.items()):
        fqn = name.removeprefix(PREFIX)
        if fqn in first_names:
            del graph.initializers[name]
            value.name, value.const_value = first_names[fqn], None
            graph.inputs.append(value)


def _refuse_draws(graph: ir.Graph, call: StageCall, modules: Modules) -> None:
    for node in graph.all_nodes():
        if node.op_type in DRAWING:
            raise PlanError(
                f"stage {call.stage.index}: {modules.of(node) or 'the model'} draws random numbers "
                f"in eval mode ({node.op_type}), and another runtime would draw others; draw in "
                "training alone, or pass them in as an input"
            )


def _name(graph: ir.Graph, call: StageCall) -> None:
    """Give inputs, outputs and symbolic sizes the plan's names; no other value has one of those."""
    taken, given = graph.inputs[: len(call.takes)], list(graph.outputs)
    pairs = [*zip(taken, call.takes, strict=True), *zip(given, call.gives, strict=True)]
    _name_sizes(graph, pairs, call.stage.index)
    reserved = {str(value.name) for value in graph.inputs[len(call.takes) :]}
    reserved |= {tensor.name for tensor in call.takes}
    final = [_reserve(tensor.name, reserved) for tensor in call.gives]
    # A list: to rename an initializer changes what is walked through.
    for value in list(_values(graph)):
        value.name = _reserve(str(value.name), reserved)
    for value, tensor in zip(taken, call.takes, strict=True):
        value.name = tensor.name
    for value, name in zip(given, final, strict=True):
        value.name = name


def _reserve(name: str, reserved: set[str]) -> str:
    """The name, or the first of name_1, name_2 ... that no value has; it is taken from now on."""
    numbers = (f"{name}_{number}" for number in range(1, len(reserved) + 2))
    chosen = next(candidate for candidate in (name, *numbers) if candidate not in reserved)
    reserved.add(chosen)
    return chosen


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Values that are named by nobody: constants, and results that are no outputs."""
    outputs = set(graph.outputs)
    yield from graph.initializers.values()
    for node in graph.all_nodes():
        yield from (value for value in node.outputs if value not in outputs and value.name)


def _name_sizes(graph: ir.Graph, pairs: Sequence[tuple[ir.Value, Tensor]], stage: int) -> None:
    """Call symbolic sizes what the plan calls them: `batch`, and `16*batch` where all follow it.

    Raises PlanError where the exporter made a number of a size that follows the batch.
    """
    names: dict[str, str] = {}
    for value, tensor in pairs:
        assert value.shape is not None
        for size, planned in zip(value.shape, tensor.shape, strict=True):
            if not isinstance(planned, str):
                continue
            if isinstance(size, int):
                raise PlanError(
                    f"stage {stage}: {tensor.name} would always have {size} in place of "
                    f"{planned}: the stage's code fixes the batch size; compile it for this batch"
                )
            names.setdefault(str(size.value), planned)
    simple = {symbol: planned for symbol, planned in names.items() if symbol.isidentifier()}
    for value in {*_values(graph), *(value for value, _ in pairs)}:
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(size, simple) for size in value.shape])
    for value, tensor in pairs:
        value.shape = ir.Shape([size for size in tensor.shape])


def _renamed(size: int | ir.SymbolicDim, names: dict[str, str]) -> int | str | None:
    if isinstance(size, int) or size.value is None:
        return size if isinstance(size, int) else None
    text = str(size.value)
    if text in names:
        return names[text]

    def within(match: re.Match[str]) -> str:
        planned = names.get(match[0], match[0])
        return planned if planned.isidentifier() else f"({planned})"

    return re.sub(r"[A-Za-z_]\w*", within, text)


def _drop_unused(graph: ir.Graph) -> None:
    """Drop what only the loss took, and what is passed on to later stages."""
    outputs = set(graph.outputs)
    for value in list(graph.inputs):
        if not value.uses() and value not in outputs:
            graph.inputs.remove(value)
