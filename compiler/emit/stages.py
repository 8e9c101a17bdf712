"""Cuts -> the stages and boundaries of the plan."""

from dataclasses import dataclass

from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.draft import Draft
from pipecut.compiler.emit.tensors import (
    buffer_of,
    checks_of,
    names_of_batch_inputs,
    output_of,
    parameter_of,
    tensor_of,
)
from pipecut.compiler.graph import Graph, Value
from pipecut.compiler.partition.coarsen.parameter_bytes import OptimizerSpec, fixed_bytes
from pipecut.compiler.partition.memory import StageBytes
from pipecut.compiler.stages.cut import Cut, in_each_mode
from pipecut.compiler.stages.modules import modules_covered
from pipecut.plan.schema import ITEM_BYTES, Boundary, OpaqueModule, OpaqueResult, Stage


def stages_of(costed: CostedGraph, draft: Draft, optimizer: OptimizerSpec) -> list[Stage]:
    """The stages; their peaks, and what their passes take, are for the replay to find."""
    return [_stage(costed, draft, cut, optimizer) for cut in draft.scheduled.cuts]


def boundaries_of(graph: Graph, draft: Draft) -> list[Boundary]:
    """What crosses after each stage but the last, over which link."""
    stage_devices = draft.placement.problem.stage_devices
    return [
        Boundary(
            left=cut.index,
            tensors=[tensor_of(graph, name) for name in cut.sends],
            bandwidth=stage_devices[cut.index].bandwidth,
            latency=stage_devices[cut.index].latency,
        )
        for cut in draft.scheduled.cuts[:-1]
    ]


def _stage(
    costed: CostedGraph,
    draft: Draft,
    cut: Cut,
    optimizer: OptimizerSpec,
) -> Stage:
    graph, index, placement = costed.graph, cut.index, draft.placement
    scheduled, cluster = draft.scheduled, draft.cluster
    operators = [graph.operators[position] for position in cut.operators]
    stage_device = placement.problem.stage_devices[index]
    rank = scheduled.pipeline_rank_of[index]
    first_device = cluster.devices[draft.candidate.layout.rank_of(index)]
    seconds, recompute = scheduled.seconds[index], placement.recompute[index]
    usage, traffic = _usage(costed, cut, optimizer), _Traffic.of(graph, cut)
    written = _written(costed, cut)
    return Stage(
        index=index,
        device=stage_device.kind,
        device_type=first_device.type,
        file=f"stages/stage_{index}.py",
        modules=modules_covered(operators),
        operators=len(operators),
        receives=list(cut.receives),
        batch_inputs=names_of_batch_inputs(graph, cut),
        sends=list(cut.sends),
        outputs=[output_of(graph, output) for output in cut.outputs],
        checks=checks_of(graph, cut.checks),
        parameters=[parameter_of(parameter) for parameter in cut.parameters],
        buffers=[buffer_of(buffer, written) for buffer in cut.buffers],
        parameter_count=_parameter_count(cut),
        forward_seconds=seconds.forward,
        backward_seconds=seconds.backward,
        load_seconds=placement.loads[index],
        recompute=recompute,
        memory_bytes=round(usage.peak(stage_device, recompute)),
        capacity_bytes=stage_device.capacity,
        buffer_bytes=traffic.on_their_way,
        bytes_sent=traffic.sent + traffic.gradients_sent,
        pipeline_rank=rank,
        draws=[number for operator in operators for number in operator.draws],
        opaque=opaque_of(graph, cut),
        weight_seconds=seconds.weights,
        reduce_seconds=seconds.reduce,
        device_bytes=stage_device.capacity + cluster.reserve_of(rank),
    )


def opaque_of(graph: Graph, cut: Cut) -> list[OpaqueModule]:
    """The modules that a stage runs as they are, with what they return in either mode."""
    calls: dict[str, list[tuple[list[OpaqueResult], list[str]]]] = {n: [] for n in cut.opaque}
    for part, part_cut in in_each_mode(graph, cut):
        for operator in (part.operators[index] for index in part_cut.operators):
            if operator.opaque is None:
                continue
            of_module = calls[operator.opaque.module]
            results = [_result(part.values[name]) for name in part.results_of(operator)]
            made = results, list(operator.opaque.others)
            if made not in of_module:
                of_module.append(made)
    return [
        OpaqueModule(
            name=name,
            results=[results for results, _ in made],
            others=[others for _, others in made] if any(others for _, others in made) else [],
        )
        for name, made in calls.items()
    ]


def _result(value: Value) -> OpaqueResult:
    return OpaqueResult(shape=list(value.shape), dtype=value.dtype)


@dataclass(frozen=True)
class _Traffic:
    """Bytes of a microbatch that a stage receives and sends."""

    received: int
    sent: int
    gradients_received: int
    gradients_sent: int

    @property
    def on_their_way(self) -> int:
        """What is posted ahead, to receive; beside it what is sent, and the gradient of that."""
        return self.received + self.sent + self.gradients_received

    @classmethod
    def of(cls, graph: Graph, cut: Cut) -> "_Traffic":
        received = [graph.values[name] for name in cut.receives]
        sent = [graph.values[name] for name in cut.sends]
        return cls(
            sum(value.bytes for value in received),
            sum(value.bytes for value in sent),
            sum(value.bytes for value in sent if value.needs_grad),
            sum(value.bytes for value in received if value.needs_grad),
        )


def _usage(costed: CostedGraph, cut: Cut, optimizer: OptimizerSpec) -> StageBytes:
    """The stage's bytes as the partitioner counts them."""
    graph = costed.graph
    costs = [costed.costs[index] for index in cut.operators]
    saved = sum(costed.saved.get(graph.operators[index].name, 0) for index in cut.operators)
    return StageBytes(
        fixed=sum(fixed_bytes(parameter, optimizer) for parameter in cut.parameters),
        saved=saved + sum(cost.saved_own_bytes for cost in costs),
        received=sum(graph.values[name].bytes for name in cut.receives),
        transient=max((cost.transient_bytes for cost in costs), default=0),
    )


def _written(costed: CostedGraph, cut: Cut) -> set[str]:
    """The storages that the stage writes to in either mode, by the value that made each."""
    graph = costed.graph
    written = {
        costed.storage.get(name, name)
        for index in cut.operators
        for name in graph.operators[index].writes
    }
    if graph.evaluation is not None and cut.evaluation is not None:
        roots = graph.evaluation.roots()
        written |= {
            roots.get(name, name)
            for index in cut.evaluation.operators
            for name in graph.evaluation.operators[index].writes
        }
    return written


def _parameter_count(cut: Cut) -> int:
    return sum(p.bytes // ITEM_BYTES[p.dtype] for p in cut.parameters)
