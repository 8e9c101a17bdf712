"""The view Stages: each stage with its layers, operators and code, and what crosses boundaries."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from pipecut.plan.schema import Plan, Sizes, Stage, Tensor
from pipecut.plan.schema.graph import PlacedOperator, PlanGraph
from pipecut.view.layers import layer_of
from pipecut.view.sources import RunReport, Sources


@dataclass(frozen=True)
class Crossing:
    """A tensor that goes to the next stage; `bytes` of a microbatch's activation.

    `relayed` where it only passes through the stage that sends it.
    """

    name: str
    shape: tuple[str, ...]
    dtype: str
    bytes: int
    needs_grad: bool
    relayed: bool


@dataclass(frozen=True)
class Crossings:
    """The boundary after a stage: bytes and seconds of a microbatch, forward and backward."""

    left: int
    tensors: tuple[Crossing, ...]
    forward_bytes: int
    backward_bytes: int
    forward_seconds: float
    backward_seconds: float


@dataclass(frozen=True)
class OperatorColumns:
    """Operators, a column for each thing about them; a column has an item per operator.

    Seconds on the stage's device and bytes, of a microbatch.
    """

    name: tuple[str, ...]
    target: tuple[str, ...]
    module: tuple[str, ...]
    source: tuple[str, ...]
    forward: tuple[float, ...]
    backward: tuple[float, ...]
    saved: tuple[int, ...]
    transient: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """The operators of one layer of the model on a stage, and the parameters it has there."""

    name: str
    parameters: int
    forward: float
    backward: float
    saved: int
    operators: OperatorColumns


@dataclass(frozen=True)
class MeasuredStage:
    """What a stage took in a run: the mean over its replicas, of bytes the most.

    Seconds of forward and backward per microbatch, of waiting and sending per step.
    """

    forward: float
    backward: float
    wait: float
    send: float
    memory: int


@dataclass(frozen=True)
class StageDetail:
    """A stage, opened. `reduce` has the seconds per step of sums over replicas."""

    file: str
    code: str
    batch_inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reduce: float
    planned_bytes: int
    layers: tuple[Layer, ...]
    measured: MeasuredStage | None


@dataclass(frozen=True)
class StagesData:
    """All stages in order, and the boundaries between them."""

    stages: tuple[StageDetail, ...]
    boundaries: tuple[Crossings, ...]


def stages_of(sources: Sources) -> StagesData:
    """The stages of a plan."""
    plan = sources.plan
    return StagesData(
        tuple(_detail(sources, stage) for stage in plan.stages),
        tuple(_crossings(plan, left) for left in range(len(plan.boundaries))),
    )


def _detail(sources: Sources, stage: Stage) -> StageDetail:
    return StageDetail(
        file=stage.file,
        code=sources.code.get(stage.file, ""),
        batch_inputs=tuple(stage.batch_inputs),
        outputs=tuple(output.name for output in stage.outputs),
        reduce=stage.reduce_seconds,
        planned_bytes=stage.memory_bytes,
        layers=layers_of(sources.folder.graph, stage),
        measured=measured_stage(sources.run, stage.index),
    )


def layers_of(graph: PlanGraph, stage: Stage) -> tuple[Layer, ...]:
    """The layers on a stage, in the order in which they first compute."""
    by_layer: dict[str, list[PlacedOperator]] = {}
    for operator in graph.operators:
        if stage.index in operator.placed_on:
            by_layer.setdefault(layer_of(operator.module), []).append(operator)
    counts = _parameters(stage, by_layer)
    return tuple(
        _layer(name, operators, counts, stage.device) for name, operators in by_layer.items()
    )


def _parameters(stage: Stage, layers: Collection[str]) -> Mapping[str, int]:
    """The numbers in the parameters of each layer; a tied one counts for the first that is here."""
    counts: dict[str, int] = {}
    for parameter in stage.parameters:
        owners = [layer_of(name.rpartition(".")[0]) for name in parameter.names]
        layer = next((owner for owner in owners if owner in layers), owners[0])
        counts[layer] = counts.get(layer, 0) + prod(parameter.shape)
    return counts


def _layer(
    name: str, operators: Sequence[PlacedOperator], counts: Mapping[str, int], device: str
) -> Layer:
    return Layer(
        name=name,
        parameters=counts.get(name, 0),
        forward=sum(operator.forward_seconds[device] for operator in operators),
        backward=sum(operator.backward_seconds[device] for operator in operators),
        saved=sum(operator.saved_bytes for operator in operators),
        operators=OperatorColumns(
            name=tuple(operator.name for operator in operators),
            target=tuple(operator.target for operator in operators),
            module=tuple(operator.module for operator in operators),
            source=tuple(operator.source for operator in operators),
            forward=tuple(operator.forward_seconds[device] for operator in operators),
            backward=tuple(operator.backward_seconds[device] for operator in operators),
            saved=tuple(operator.saved_bytes for operator in operators),
            transient=tuple(operator.transient_bytes for operator in operators),
        ),
    )


def _crossings(plan: Plan, left: int) -> Crossings:
    boundary, size = plan.boundaries[left], plan.batch.largest
    before = {t.name for t in plan.boundaries[left - 1].tensors} if left else set()
    forward = sum(tensor.bytes_for(size) for tensor in boundary.tensors)
    backward = sum(tensor.bytes_for(size) for tensor in boundary.tensors if tensor.needs_grad)
    return Crossings(
        left=boundary.left,
        tensors=tuple(_crossing(t, size, t.name in before) for t in boundary.tensors),
        forward_bytes=forward,
        backward_bytes=backward,
        forward_seconds=boundary.latency + forward / boundary.bandwidth,
        backward_seconds=boundary.latency + backward / boundary.bandwidth if backward else 0.0,
    )


def _crossing(tensor: Tensor, size: Sizes, relayed: bool) -> Crossing:
    return Crossing(
        name=tensor.name,
        shape=tuple(map(str, tensor.shape)),
        dtype=tensor.dtype,
        bytes=tensor.bytes_for(size),
        needs_grad=tensor.needs_grad,
        relayed=relayed,
    )


def measured_stage(run: RunReport | None, stage: int) -> MeasuredStage | None:
    """What a stage took in a run, where there is one."""
    rows = [row for row in run.measured if row.stage == stage] if run is not None else []
    if not rows:
        return None
    return MeasuredStage(
        forward=sum(row.forward for row in rows) / len(rows),
        backward=sum(row.backward for row in rows) / len(rows),
        wait=sum(row.wait for row in rows) / len(rows),
        send=sum(row.send for row in rows) / len(rows),
        memory=max(row.memory for row in rows),
    )
