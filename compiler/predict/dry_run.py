"""What a stage's forward and backward allocate: run as a rank runs them, without memory.

They run on hollow tensors. What these cannot be - sparse gradients, sizes that change in place -
is run on fake tensors, and so are the user's own autograd.Functions, which may look into tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipecut.compiler.costs.data_sizes import DataSized
from pipecut.compiler.costs.kernels import Kernels
from pipecut.compiler.graph import Graph, Value
from pipecut.compiler.predict.hollow_allocations import HollowAllocations
from pipecut.compiler.predict.known_calls import KnownCalls
from pipecut.compiler.predict.opaque_modules import returning_tensors, standing_in
from pipecut.compiler.stages.build import module_of
from pipecut.compiler.stages.cut import Cut
from pipecut.compiler.stages.imports import functions_of
from pipecut.plan.schema import Plan, Stage, StageMemory
from pipecut.runtime.engine.stage import RunningStage
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.parameters import parameters_of
from pipecut.runtime.observe.allocations import Allocations

CPU = torch.device("cpu")


def stage_memory(
    plan: Plan, graph: Graph, cut: Cut, code: str, split_backward: bool, known: KnownCalls
) -> StageMemory:
    """Run two microbatches of a stage's code one after the other: the first allocates gradients.

    `known` has what calls of stages before made, and gets what this one's make.

    Raises what an operator raises that has no fake kernel.
    """
    stage = returning_tensors(plan.stages[cut.index])
    dry = DryStage(plan, stage, graph, cut, code, split_backward)
    if not functions_of(graph, cut):
        try:
            return dry.on_hollow_tensors(known)
        except Exception:
            # Operators without a fake kernel raise as they like, and do so again below.
            pass
    return dry.on_fake_tensors(known)


@dataclass(frozen=True)
class DryStage:
    """A stage to be run without memory."""

    plan: Plan
    stage: Stage
    graph: Graph
    cut: Cut
    code: str
    split_backward: bool

    def on_hollow_tensors(self, known: KnownCalls) -> StageMemory:
        """Raises NotHollowError, and what an operator raises."""
        with HollowAllocations(known) as allocations:
            return self._run(self._running(), allocations)

    def on_fake_tensors(self, known: KnownCalls) -> StageMemory:
        """Raises what an operator raises."""
        with FakeTensorMode() as mode, DataSized(mode, unbounded=known.unbounded):
            running = self._running()
            masters = [parameter.master for parameter in running.masters.parameters.values()]
            module = running.module
            with Allocations([*module.parameters(), *masters, *module.buffers()]) as allocations:
                return self._run(running, allocations)

    def _running(self) -> RunningStage:
        buffers = {buffer.names[0]: _like(buffer.data) for buffer in self.cut.buffers}
        own_modules = standing_in(self.graph, self.cut, self.plan.batch.microbatch)
        module = module_of(self.code, self.cut.index, CPU, buffers, own_modules)
        masters = Masters(parameters_of(module))
        running = RunningStage(self.plan, self.stage, module, masters, self.split_backward)
        running.begin(0, 0, [self.plan.batch.largest])
        return running

    def _run(self, running: RunningStage, allocations: Allocations) -> StageMemory:
        # The kernels of the plan's kind of device, whatever this machine has.
        with Kernels(self.stage.device_type):
            first = _microbatch(running, self.graph, self.cut, allocations)
            second = _microbatch(running, self.graph, self.cut, allocations)
        return _memory(first, second, self.split_backward)


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
    running: RunningStage, graph: Graph, cut: Cut, allocations: Allocations
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


def _like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)


def _empty_tensor(value: Value) -> torch.Tensor:
    return torch.empty_strided(value.sizes, value.strides, dtype=getattr(torch, value.dtype))
