"""What a stage's forward and backward allocate: run as a rank runs them, on fake tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipecut.compiler.costs.kernels import Kernels
from pipecut.compiler.graph import Graph, Value
from pipecut.compiler.predict.fake_allocations import FakeAllocations
from pipecut.compiler.predict.known_calls import KnownCalls
from pipecut.compiler.predict.opaque_modules import returning_tensors, standing_in
from pipecut.compiler.stages.build import module_of
from pipecut.compiler.stages.cut import Cut
from pipecut.plan.schema import Plan, StageMemory
from pipecut.runtime.engine.stage import RunningStage
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.parameters import parameters_of

CPU = torch.device("cpu")


def stage_memory(
    plan: Plan, graph: Graph, cut: Cut, code: str, split_backward: bool, known: KnownCalls
) -> StageMemory:
    """Run two microbatches of a stage's code one after the other: the first allocates gradients.

    `known` has what calls of stages before made, and gets what this one's make.

    Raises what an operator raises that has no fake kernel.
    """
    stage = returning_tensors(plan.stages[cut.index])
    with FakeTensorMode() as mode:
        buffers = {buffer.names[0]: mode.from_tensor(buffer.data) for buffer in cut.buffers}
        own_modules = standing_in(graph, cut, plan.batch.microbatch)
        module = module_of(code, cut.index, CPU, buffers, own_modules)
        parameters = parameters_of(module)
        running = RunningStage(plan, stage, module, Masters(parameters), split_backward)
        running.begin(0, 0, [plan.batch.largest])
        held = [*module.parameters(), *(p.master for p in parameters), *module.buffers()]
        # The kernels of the plan's kind of device, whatever this machine has.
        with FakeAllocations(mode, known, held) as allocations, Kernels(stage.device_type):
            first = _microbatch(running, graph, cut, allocations)
            second = _microbatch(running, graph, cut, allocations)
    return _memory(first, second, split_backward)


@dataclass(frozen=True)
class Microbatch:
    """Bytes above what a microbatch began with, without the gradients that it sends back.

    `forward_peak`, and `kept` after it, of which `saved` stays once what was sent has left; the
    peak of backward without the gradients that arrive for it, and what is alive after it. Of a
    split backward, the peak above that while gradients of weights are computed, and what is alive
    after them.
    """

    forward_peak: int
    kept: int
    saved: int
    backward_peak: int
    after_backward: int
    weights_peak: int
    after_weights: int


def _memory(first: Microbatch, second: Microbatch, split_backward: bool) -> StageMemory:
    """What differs between the two microbatches are the gradients that the first allocates."""
    # What the second keeps after a split backward waits for the gradients of weights.
    waiting = second.after_backward if split_backward else 0
    gradients = first.after_backward - waiting
    return StageMemory(
        forward_peak=second.forward_peak,
        kept=second.kept,
        saved=second.saved,
        first_backward_peak=first.backward_peak,
        backward_peak=second.backward_peak,
        gradients=gradients,
        weights_kept=waiting,
        weights_first_peak=first.weights_peak,
        weights_peak=second.weights_peak,
        weights_gradients=first.after_weights - gradients if split_backward else 0,
    )


def _microbatch(
    running: RunningStage, graph: Graph, cut: Cut, allocations: FakeAllocations
) -> Microbatch:
    """Run forward and backward, and the gradients of weights where backward is split."""
    before = allocations.live
    received = _empty(graph, cut.receives)
    batch = _empty(graph, cut.batch_inputs)
    base = allocations.peak = allocations.live
    outputs = running.forward(0, received, batch, 1.0, grad=True)
    forward_peak, kept = allocations.peak - base, allocations.live - base
    del outputs
    saved = allocations.live - base
    gradients = [] if running.last else _empty(graph, _needing_gradients(running, cut))
    arrived = allocations.live - base - saved
    allocations.peak = allocations.live
    returned = running.backward(0, gradients)
    backward_peak = allocations.peak - base - arrived
    returned_bytes = sum(tensor.untyped_storage().nbytes() for tensor in returned)
    # What a rank lets go once its backward is done.
    del gradients, received, batch
    live = allocations.peak = allocations.live
    if running.split_backward:
        running.weights(0)
    return Microbatch(
        forward_peak=forward_peak,
        kept=kept,
        saved=saved,
        backward_peak=backward_peak,
        after_backward=live - before - returned_bytes,
        weights_peak=allocations.peak - live,
        after_weights=allocations.live - before - returned_bytes,
    )


def _needing_gradients(running: RunningStage, cut: Cut) -> list[str]:
    needs = zip(cut.sends, running.sent_need_grad, strict=True)
    return [name for name, needs_grad in needs if needs_grad]


def _empty(graph: Graph, names: Sequence[str]) -> list[torch.Tensor]:
    return [_empty_tensor(graph.values[name]) for name in names]


def _empty_tensor(value: Value) -> torch.Tensor:
    return torch.empty_strided(value.sizes, value.strides, dtype=getattr(torch, value.dtype))
