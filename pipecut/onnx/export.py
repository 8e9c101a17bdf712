"""A plan as ONNX: a file per stage in eval mode, and a manifest of what feeds what."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

import pipecut
from pipecut.errors import PipecutError, PlanError
from pipecut.onnx.files import Destination, write_stage
from pipecut.onnx.graph import graph_of, inputs_of
from pipecut.onnx.manifest import (
    ExportedStage,
    Manifest,
    ModelOutput,
    Port,
    StageInput,
    write_manifest,
)
from pipecut.onnx.modules import Modules
from pipecut.onnx.program import StageCall, call_of, export_stage
from pipecut.onnx.refusals import refuse_opaque, refuse_training_only, why
from pipecut.onnx.values import Weights
from pipecut.plan.folder import PlanFolder
from pipecut.plan.schema import Plan

Progress = Callable[[str], None]


@dataclass(frozen=True)
class _Written:
    """A stage's file: what it takes, and what it gives, in the order of its call."""

    call: StageCall
    file: str
    has_data: bool
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int

    @property
    def sent(self) -> dict[str, Port]:
        """What later stages take, by the plan's names."""
        return dict(zip((t.name for t in self.call.sends), self.outputs, strict=False))

    @property
    def returned(self) -> dict[str, Port]:
        """What the model returns, by its own names."""
        names = [tensor.name for tensor in self.call.outputs]
        return dict(zip(names, self.outputs[len(self.call.sends) :], strict=True))


def export_onnx(folder: PlanFolder, output: Path, weights: Weights, progress: Progress) -> Manifest:
    """Write the stages into a folder. The last comes first, since it says what it needs.

    Raises PipecutError where a stage cannot be written.
    """
    plan = folder.plan.in_evaluation()
    refuse_training_only(plan)
    refuse_opaque(plan)
    exporter = _Exporter(folder, plan, weights)
    with Destination(output) as scratch:
        for stage in reversed(plan.stages):
            progress(f"exporting stage {stage.index} of {len(plan.stages)}")
            exporter.write(stage.index, scratch)
        manifest = exporter.manifest()
        write_manifest(scratch, manifest)
    return manifest


class _Exporter:
    """Writes stages one after the other, from the last to the first."""

    def __init__(self, folder: PlanFolder, plan: Plan, source: Weights) -> None:
        self.folder, self.plan, self.source = folder, plan, source
        self.modules = _modules(folder)
        self.only_loss = not any(stage.outputs for stage in plan.stages)
        self.written: list[_Written] = []

    def write(self, index: int, folder: Path) -> None:
        """Export a stage into a folder. Raises PipecutError."""
        plan, stage = self.plan, self.plan.stages[index]
        needed = frozenset(port.name for later in self.written for port in later.inputs)
        call = call_of(plan, stage, needed, self.only_loss)
        if not call.gives:
            return
        values = self.source.of(stage)
        try:
            program = export_stage(values.module, call, plan.batch)
            model = graph_of(program, call, self.modules)
        except PipecutError:
            raise
        except Exception as error:
            raise PlanError(why(stage, error)) from error
        inputs = inputs_of(model, call)
        taken, given = tuple(map(_port, inputs.taken)), tuple(map(_port, model.graph.outputs))
        file = f"stage_{index}.onnx"
        absent = values.parameters if self.source.absent else {}
        both = values.parameters | values.buffers
        has_data = write_stage(folder / file, model, inputs.held, both, absent)
        opset = model.graph.opset_imports[""]
        self.written.append(_Written(call, file, has_data, taken, given, opset))

    def manifest(self) -> Manifest:
        """What was written, in the order of the stages."""
        plan, written = self.plan, self.written[::-1]
        makers = {
            name: (stage.call.stage.index, port.name)
            for stage in written
            for name, port in stage.sent.items()
        }
        stages = [_entry(stage, makers) for stage in written]
        from_batch = [i for stage in stages for i in stage.inputs if i.stage is None]
        return Manifest(
            pipecut=pipecut.__version__,
            factory=plan.model.factory,
            weights=str(self.source),
            batch="any" if plan.batch.dynamic else plan.batch.microbatch,
            opset=max(stage.opset for stage in written),
            inputs=tuple(_unique(from_batch)),
            outputs=tuple(
                ModelOutput(
                    name=name,
                    dtype=port.dtype,
                    shape=port.shape,
                    stage=stage.call.stage.index,
                    tensor=port.name,
                )
                for stage in written
                for name, port in stage.returned.items()
            ),
            left_out=plan.evaluation.left_out,
            without_file=tuple(sorted({s.index for s in plan.stages} - {s.stage for s in stages})),
            stages=tuple(stages),
        )


def _entry(stage: _Written, makers: dict[str, tuple[int, str]]) -> ExportedStage:
    def fed(port: Port) -> StageInput:
        maker, tensor = makers.get(port.name, (None, port.name))
        return StageInput(**dict(port), stage=maker, tensor=tensor)

    return ExportedStage(
        stage=stage.call.stage.index,
        file=stage.file,
        data=f"{stage.file}.data" if stage.has_data else None,
        modules=tuple(stage.call.stage.modules),
        inputs=tuple(map(fed, stage.inputs)),
        outputs=stage.outputs,
    )


def _unique(inputs: Sequence[StageInput]) -> list[Port]:
    """What is needed of the batch, each once."""
    by_name = {
        port.tensor: Port(name=port.tensor, dtype=port.dtype, shape=port.shape) for port in inputs
    }
    return list(by_name.values())


def _port(value: ir.Value) -> Port:
    assert value.name is not None and value.dtype is not None and value.shape is not None
    sizes = (size if isinstance(size, int) else str(size.value) for size in value.shape)
    return Port(name=value.name, dtype=value.dtype.numpy().name, shape=tuple(sizes))


def _modules(folder: PlanFolder) -> Modules:
    graph = folder.graph
    of_value = {operator.name: operator.module for operator in graph.operators}
    if graph.evaluation is not None:
        of_value |= {operator.name: operator.module for operator in graph.evaluation.operators}
    return Modules(of_value)
