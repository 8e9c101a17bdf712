"""The problem that was solved, as the page needs it to price another cut: graph.json's `problem`.

Blocks are renumbered so that those of a stage stand together, in an order that keeps every edge.
A cut is then one position for each boundary, and the page moves these positions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pipecut.errors import PlanError
from pipecut.plan.folder import GRAPH, PlanFolder, checked_bytes
from pipecut.plan.schema.graph import PlanGraph
from pipecut.plan.schema.numbers import Bytes, Count, Rate, Seconds, Signed
from pipecut.view.layers import layer_of
from pipecut.view.reading.mistakes import first_mistake


class _ProblemModel(BaseModel):
    """Frozen; the file may have more than is read here."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Block(_ProblemModel):
    operators: tuple[Count, ...]
    seconds: dict[str, Seconds]
    forward_seconds: dict[str, Seconds] = {}
    saved_bytes: Bytes
    transient_bytes: Bytes


class _Tensor(_ProblemModel):
    source: Count
    consumers: tuple[Count, ...]
    forward_bytes: float
    backward_bytes: float
    messages: Count


class _Shared(_ProblemModel):
    bytes: Bytes
    users: tuple[Count, ...]
    seconds: dict[str, Seconds] = {}
    forward_seconds: dict[str, Seconds] = {}
    saved_bytes: Bytes = 0


class _StageDevice(_ProblemModel):
    kind: str
    capacity: Signed
    in_flight: Count
    bandwidth: Rate
    latency: Seconds


class _Problem(_ProblemModel):
    blocks: tuple[_Block, ...]
    tensors: tuple[_Tensor, ...]
    shared: tuple[_Shared, ...]
    stage_devices: tuple[_StageDevice, ...]
    comm: Literal["relay", "direct"]
    pins: tuple[tuple[Count, Count], ...] = ()
    splits: tuple[tuple[Count, Count], ...] = ()
    recompute: Literal["auto", "never", "always"]
    devices: tuple[Count, ...] = ()


class _Graph(_ProblemModel):
    problem: _Problem | None = None


@dataclass(frozen=True)
class Block:
    """Operators that a cut keeps together; `seconds` and `forward` by kind of device."""

    name: str
    layer: str
    stage: int
    seconds: Mapping[str, float]
    forward: Mapping[str, float]
    saved: int
    transient: int


@dataclass(frozen=True)
class MovedTensor:
    """A tensor between blocks: bytes forward and backward, and the messages that they take."""

    source: int
    consumers: tuple[int, ...]
    forward: float
    backward: float
    messages: int


@dataclass(frozen=True)
class Shared:
    """What each stage holds, or computes, on which one of its users stands."""

    users: tuple[int, ...]
    bytes: int
    seconds: Mapping[str, float]
    forward: Mapping[str, float]
    saved: int


@dataclass(frozen=True)
class StageDevice:
    """The device of a stage, numbered `device`; `capacity` is less the reserve."""

    kind: str
    device: int
    capacity: int
    in_flight: int
    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Pin:
    """A block that the job puts on a stage."""

    block: int
    stage: int


@dataclass(frozen=True)
class Split:
    """Two blocks that the job puts on different stages, in this order."""

    first: int
    last: int


@dataclass(frozen=True)
class CutProblem:
    """Blocks in order with what ties them; `comm` and `recompute` as the partitioner has them."""

    blocks: tuple[Block, ...]
    tensors: tuple[MovedTensor, ...]
    shared: tuple[Shared, ...]
    devices: tuple[StageDevice, ...]
    comm: str
    recompute: str
    pins: tuple[Pin, ...]
    splits: tuple[Split, ...]


def read_problem(folder: PlanFolder) -> CutProblem | None:
    """The problem of a plan; None where the plan has none.

    Raises PlanError where it contradicts itself or the plan.
    """
    data = checked_bytes(folder.path, folder.plan, GRAPH)
    try:
        problem = TypeAdapter(_Graph).validate_python(json.loads(data)).problem
        return None if problem is None else _renumbered(problem, folder.graph)
    except (ValidationError, IndexError, KeyError, ValueError) as error:
        reason = first_mistake(error) if isinstance(error, ValidationError) else repr(error)
        raise PlanError(
            f"{folder.path / GRAPH}: its problem cannot be read: {reason}; compile again"
        ) from None


def _renumbered(problem: _Problem, graph: PlanGraph) -> CutProblem:
    stages = [_stage_of(block, graph) for block in problem.blocks]
    order = sorted(range(len(stages)), key=lambda index: (stages[index], index))
    new = {old: number for number, old in enumerate(order)}
    return CutProblem(
        blocks=tuple(_block(problem.blocks[old], graph, stages[old]) for old in order),
        tensors=tuple(_tensor(tensor, new) for tensor in problem.tensors),
        shared=tuple(_shared(shared, new) for shared in problem.shared),
        devices=_devices(problem),
        comm=problem.comm,
        recompute=problem.recompute,
        pins=tuple(Pin(new[block], stage) for block, stage in problem.pins),
        splits=tuple(Split(new[first], new[last]) for first, last in problem.splits),
    )


def _stage_of(block: _Block, graph: PlanGraph) -> int:
    return graph.operators[block.operators[0]].stage


def _block(block: _Block, graph: PlanGraph, stage: int) -> Block:
    operators = [graph.operators[index] for index in block.operators]
    modules = list(dict.fromkeys(operator.module for operator in operators))
    names = f"{operators[0].name}" + (f" to {operators[-1].name}" if len(operators) > 1 else "")
    return Block(
        name=f"{modules[-1]}: {names}" if modules[-1] else names,
        layer=_main_layer(modules),
        stage=stage,
        seconds=block.seconds,
        forward=block.forward_seconds,
        saved=block.saved_bytes,
        transient=block.transient_bytes,
    )


def _main_layer(modules: Sequence[str]) -> str:
    """The layer that most of the modules are in."""
    layers = [layer_of(module) for module in modules]
    return max(dict.fromkeys(layers), key=layers.count)


def _tensor(tensor: _Tensor, new: Mapping[int, int]) -> MovedTensor:
    return MovedTensor(
        source=new[tensor.source],
        consumers=tuple(new[user] for user in tensor.consumers),
        forward=tensor.forward_bytes,
        backward=tensor.backward_bytes,
        messages=tensor.messages,
    )


def _shared(shared: _Shared, new: Mapping[int, int]) -> Shared:
    return Shared(
        users=tuple(sorted(new[user] for user in shared.users)),
        bytes=shared.bytes,
        seconds=shared.seconds,
        forward=shared.forward_seconds,
        saved=shared.saved_bytes,
    )


def _devices(problem: _Problem) -> tuple[StageDevice, ...]:
    numbers = problem.devices or tuple(range(len(problem.stage_devices)))
    return tuple(
        StageDevice(row.kind, device, row.capacity, row.in_flight, row.bandwidth, row.latency)
        for row, device in zip(problem.stage_devices, numbers, strict=True)
    )
