"""What each stage's forward and backward allocate, found by running them as a rank would, on fake tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipecut.compiler.costs.kernels import Kernels
from pipecut.compiler.costs.work import identity
from pipecut.compiler.graph import Graph, Value
from pipecut.compiler.predict.step import Scheduled
from pipecut.compiler.stages.build import build
from pipecut.compiler.stages.cut import Cut
from pipecut.plan.actions import splits_backward
from pipecut.plan.replay.memory import outside_bytes, peak_of
from pipecut.plan.schema import Plan, Stage, StageMemory
from pipecut.runtime.engine.stage import RunningStage
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.parameters import parameters_of
from pipecut.runtime.observe.allocations import Allocations

CPU = torch.device("cpu")
UPPER_BOUND = "memory: an upper bound, since an operator cannot run on fake tensors"


def replay(plan: Plan, graph: Graph, scheduled: Scheduled) -> Plan:
    """The plan with what each stage's passes take, and the peak of its rank under the schedule."""
    later = any(splits_backward(row) for row in scheduled.actions)
    passes = passes_of(plan, graph, scheduled.cuts, later)
    plan = plan.model_copy(
        update={
            "stages": [
                stage.model_copy(update={"passes": memory})
                for stage, memory in zip(plan.stages, passes, strict=True)
            ]
        }
    )
    stages = [_with_peak(plan, stage, scheduled) for stage in plan.stages]
    notes = [*plan.notes, *([UPPER_BOUND] if None in passes else [])]
    return plan.model_copy(update={"stages": stages, "notes": notes})


def _with_peak(plan: Plan, stage: Stage, scheduled: Scheduled) -> Stage:
    rank = stage.pipeline_rank
    return stage.model_copy(
        update={
            "peak_bytes": peak_of(plan, scheduled.actions[rank], rank),
            "outside_bytes": outside_bytes(plan, rank),
        }
    )


def passes_of(
    plan: Plan, graph: Graph, cuts: Sequence[Cut], later: bool = False
) -> list[StageMemory | None]:
    """Of every stage; None where an operator has no fake kernel. Equal stages are run once.

    `later` where gradients of weights come by themselves.
    """
    known: dict[Any, StageMemory | None] = {}
    found = []
    for one in cuts:
        key = _shape(plan, graph, one)
        if key not in known:
            try:
                known[key] = _run(plan, graph, one, later)
            except Exception:
                # Operators without a fake kernel raise as they like.
                known[key] = None
        found.append(known[key])
    return found


def _shape(plan: Plan, graph: Graph, one: Cut) -> Any:
    """What the memory of a stage depends on: its operators with all sizes, by position."""
    position: dict[str, int] = {}

    def at(name: str) -> Any:
        value = graph.values.get(name)
        number = position.setdefault(name, len(position))
        return (
            (number, value.sizes, value.strides, value.dtype, value.needs_grad) if value else number
        )

    held = {p.value: p.trainable for p in one.parameters} | {b.value: None for b in one.buffers}
    operators = [graph.operators[index] for index in one.operators]
    rows = [
        (identity(o, graph), tuple((at(n), held.get(n)) for n in o.inputs), at(o.name))
        for o in operators
    ]
    edges = tuple(tuple(map(at, names)) for names in (one.receives, one.batch_inputs, one.sends))
    stage = plan.stages[one.index]
    return tuple(rows), edges, stage.recompute, one.index == len(plan.stages) - 1


def _run(plan: Plan, graph: Graph, one: Cut, later: bool) -> StageMemory:
    """Two microbatches one after the other: the first brings the parameters' gradients into being."""
    with FakeTensorMode() as mode:
        buffers = {b.names[0]: mode.from_tensor(b.data) for b in one.buffers}
        module = build(graph, one, len(plan.stages), CPU, buffers)
        parameters = parameters_of(module)
        masters = Masters(parameters)
        running = RunningStage(plan, plan.stages[one.index], module, masters, later)
        held = [*module.parameters(), *(p.master for p in parameters), *module.buffers()]
        # A plan's own kind of device, whatever this machine has.
        with Allocations(held) as counted, Kernels(plan.stages[one.index].device_type):
            first = _microbatch(running, graph, one, counted)
            second = _microbatch(running, graph, one, counted)
    return StageMemory(
        forward_peak=second[0],
        kept=second[1],
        saved=second[2],
        first_backward_peak=first[3],
        backward_peak=second[3],
        gradients=first[4] - (second[4] if later else 0),
        weights_kept=second[4] if later else 0,
        weights_first_peak=first[5],
        weights_peak=second[5],
        weights_gradients=first[6] - (first[4] - second[4]) if later else 0,
    )


def _microbatch(
    running: RunningStage, graph: Graph, one: Cut, counted: Allocations
) -> tuple[int, ...]:
    """Bytes above what it began with: forward's peak, kept after it, and less what was sent; backward's peak, and after it.

    And of gradients of weights that come later: the peak above what is there before, and what is there after them.
    """
    before = counted.live
    received = [_empty(graph.values[name]) for name in one.receives]
    batch = [_empty(graph.values[name]) for name in one.batch_inputs]
    base = counted.peak = counted.live
    outputs = running.forward(0, received, batch, 1.0, grad=True)
    peak, kept = counted.peak - base, counted.live - base
    del outputs
    saved = counted.live - base
    last = running.last
    gradients = (
        []
        if last
        else [
            _empty(graph.values[n])
            for n, needs in zip(one.sends, running.sent_need_grad, strict=True)
            if needs
        ]
    )
    arrived = counted.live - base - saved
    counted.peak = counted.live
    returned = running.backward(0, gradients)
    backward_peak = counted.peak - base - arrived
    size = sum(t.untyped_storage().nbytes() for t in returned)
    del gradients, received, batch
    after = counted.live - before - size
    counted.peak = counted.live
    begun = counted.live
    if running.split_backward:
        running.weights(0)
    return (
        peak,
        kept,
        saved,
        backward_peak,
        after,
        counted.peak - begun,
        counted.live - before - size,
    )


def _empty(value: Value) -> torch.Tensor:
    return torch.empty_strided(value.sizes, value.strides, dtype=getattr(torch, value.dtype))
