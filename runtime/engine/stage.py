"""One stage on its device: forward keeps what backward needs; backward returns gradients.

A stage that recomputes keeps only what it was given, and runs its forward again when gradients
come.
"""

import types
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from pipecut.errors import RunError
from pipecut.model.draws import StageDraws
from pipecut.model.stage_imports import importing
from pipecut.plan.folder import checked_bytes
from pipecut.plan.schema import Plan, Sizes, Stage
from pipecut.runtime.engine import recompute
from pipecut.runtime.engine.batch_dimensions import batch_dimensions, mark
from pipecut.runtime.engine.opaque_modules import OpaqueModules
from pipecut.runtime.engine.weight_gradients import WeightGradStore
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.ranks.agree.value_checks import StageChecks

Tensors = list[torch.Tensor]
# Where a gradient enters: a loss itself, the edge of a tensor that was sent, or None where none
# does.
Root = torch.Tensor | GradientEdge | None


def build_module(path: Path, plan: Plan, stage: Stage, device: torch.device) -> nn.Module:
    """Build a stage of a plan folder, uninitialised, on its device.

    Raises PlanError, and UserFileError where the user's code that it calls is not here.

    The very bytes whose hash was compared are compiled: an import would take a cached .pyc beside
    them.
    """
    source = checked_bytes(path, plan, stage.file)
    module = types.ModuleType(f"pipecut_stage_{stage.index}")
    module.__file__ = str(path / stage.file)
    with importing(source, module.__file__, plan.model):
        exec(compile(source, module.__file__, "exec"), module.__dict__)
    built: nn.Module = getattr(module, f"Stage{stage.index}")(device=device)
    return built


@dataclass(frozen=True)
class InFlight:
    """A microbatch between forward and backward.

    `roots` is None, and `captured` is not, where the stage recomputes. What was sent is not kept,
    only where its gradient enters.
    """

    received: Tensors
    batch: Tensors
    weight: float
    roots: list[Root] | None
    captured: recompute.Captured | None


class RunningStage:
    """A stage and the microbatches it has in flight.

    With `split_backward`, gradients of weights are put aside for `weights`. `gradient_ready` is
    called with each parameter of a split backward that gets no more gradient from the action that
    runs.
    """

    def __init__(
        self,
        plan: Plan,
        stage: Stage,
        module: nn.Module,
        masters: Masters,
        split_backward: bool = False,
        gradient_ready: Callable[[nn.Parameter], None] = lambda _: None,
    ) -> None:
        self.stage, self.module = stage, module
        self.masters = masters
        self.split_backward, self.gradient_ready = split_backward, gradient_ready
        self.aside: dict[int, WeightGradStore] = {}
        self.own_hooks = {p: _hooks(p) for p in module.parameters()}
        tensors_after = {boundary.left: boundary.tensors for boundary in plan.boundaries}
        self.received_need_grad = [t.needs_grad for t in tensors_after.get(stage.index - 1, [])]
        self.sent_need_grad = [t.needs_grad for t in tensors_after.get(stage.index, [])]
        self.last = stage.index == len(plan.stages) - 1
        self.written_names = [buffer.names[0] for buffer in stage.buffers if buffer.written]
        self.device = next(
            (t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu")
        )
        self.live: dict[int, InFlight] = {}
        self.checks = StageChecks(stage)
        self.draws = StageDraws(plan.model.seed, stage.draws) if stage.draws else None
        self.opaque = OpaqueModules(stage, module, self.draws.draws if self.draws else None)
        self.dimensions = batch_dimensions(plan, stage)
        # What stages before this one gave that no microbatch of the step has a gradient of.
        self.lacking: set[str] | None = None
        self.step = self.first = 0
        self.sizes: Sequence[Sizes] = ()

    def begin(self, step: int, first: int, sizes: Sequence[Sizes]) -> None:
        """Begin a step: its number, and the number of this replica's first microbatch among all.

        `sizes` has those of each microbatch.
        """
        self.step, self.first, self.sizes = step, first, sizes
        self.checks.answers.clear()
        self.lacking = None

    def end(self) -> None:
        """End a step. Raises RunError where what stages before this one got is not the model's.

        They got zeros for a tensor that an opaque module did not use for any microbatch, where the
        model leaves None, which an optimizer passes over.
        """
        if self.lacking and self.opaque.modules:
            raise RunError(
                f"stage {self.stage.index}: no microbatch of this step gave a gradient to "
                f"{min(self.lacking)}, since a module that runs as it is "
                f"({', '.join(self.opaque.modules)}) did not use it for these data; the model then "
                "has no gradient of what comes before, and stages cannot tell that from zeros: "
                "add to what the module returns 0 times what it is given"
            )

    def forward(
        self,
        microbatch: int,
        received: Tensors,
        batch: Tensors,
        weight: float,
        grad: bool,
        outputs: dict[str, torch.Tensor] | None = None,
    ) -> Tensors:
        """What the next stage needs, or the loss, which is multiplied by `weight` for backward.

        Without gradients, the model's other outputs are put into `outputs`.
        """
        mark([*received, *batch], self.dimensions)
        if not grad:
            return self._forward_only(microbatch, [*received, *batch], outputs)
        for tensor, needs_grad in zip(received, self.received_need_grad, strict=True):
            tensor.requires_grad_(needs_grad)
        if self.stage.recompute:
            return self._forward_to_recompute(microbatch, received, batch, weight)
        with torch.enable_grad(), self._drawing(microbatch), self._putting_aside(microbatch):
            results = self._called(microbatch, [*received, *batch])
        roots = self._roots(results, weight)
        self.live[microbatch] = InFlight(received, batch, weight, roots, None)
        return results

    def _forward_only(
        self, microbatch: int, inputs: Tensors, outputs: dict[str, torch.Tensor] | None
    ) -> Tensors:
        wanted = {"outputs": outputs} if outputs is not None and self.stage.outputs else {}
        with torch.no_grad(), self._drawing(microbatch):
            return self._called(microbatch, inputs, **wanted)

    def _called(
        self, microbatch: int, inputs: Tensors, **wanted: dict[str, torch.Tensor]
    ) -> Tensors:
        """What the module returns, where it also answers the stage's checks."""
        return self._run(
            microbatch, inputs, **wanted, **self.checks.wanted(self.first + microbatch)
        )

    def _run(self, microbatch: int, inputs: Tensors, **wanted: dict[str, torch.Tensor]) -> Tensors:
        """What the module returns."""
        store = self.aside.get(microbatch)
        with self.opaque.running(self.sizes[microbatch], store):
            return list(self.module(*inputs, **wanted))

    def _forward_to_recompute(
        self, microbatch: int, received: Tensors, batch: Tensors, weight: float
    ) -> Tensors:
        inputs = [*received, *batch]
        versions = [tensor._version for tensor in inputs]
        captured = recompute.capture(self.module, self.device, self.written_names)
        with torch.no_grad(), self._drawing(microbatch):
            results = self._called(microbatch, inputs)
        recompute.check_untouched(inputs, versions)
        self.live[microbatch] = InFlight(received, batch, weight, None, captured)
        return results

    def backward(self, microbatch: int, gradients: Tensors) -> Tensors:
        """Gradients of what was received, in its order, for the tensors that need one."""
        live = self.live.pop(microbatch)
        if live.captured is None:
            assert live.roots is not None
            self._backward(live.roots, gradients)
        else:
            with recompute.replaying(self.module, self.device, live.captured):
                # No name holds the results, so that backward frees what it is done with.
                with self._drawing(microbatch), self._putting_aside(microbatch):
                    inputs = [*live.received, *live.batch]
                    roots = self._roots(self._run(microbatch, inputs), live.weight)
                self._backward(roots, gradients)
        needing = list(compress(live.received, self.received_need_grad))
        names = compress(self.stage.receives, self.received_need_grad)
        lacking = {n for n, tensor in zip(names, needing, strict=True) if tensor.grad is None}
        self.lacking = lacking if self.lacking is None else self.lacking & lacking
        return [t.grad if t.grad is not None else torch.zeros_like(t) for t in needing]

    def weights(self, microbatch: int) -> None:
        """Add the gradients of weights that a backward put aside."""
        store = self.aside.pop(microbatch)
        pending = store.weights
        for parameter in self.module.parameters():
            if parameter.requires_grad and parameter not in pending:
                # The backward before made all of its gradient.
                self.gradient_ready(parameter)
        store.do()

    def written(self) -> Tensors:
        """Buffers that a forward changes."""
        buffers = dict(self.module.named_buffers(remove_duplicate=False))
        return [buffers[name] for name in self.written_names]

    def _drawing(self, microbatch: int) -> AbstractContextManager[object]:
        if self.draws is None:
            return nullcontext()
        return self.draws.at(self.step, self.first + microbatch)

    def _putting_aside(self, microbatch: int) -> AbstractContextManager[object]:
        if not self.split_backward:
            return nullcontext()
        store = WeightGradStore(self.masters.accumulate, self.gradient_ready, self.own_hooks)
        self.aside[microbatch] = store
        return store

    def _roots(self, results: Tensors, weight: float) -> list[Root]:
        """Where backward begins; the loss is kept itself, since it gets no gradient."""
        if self.last:
            if not results[0].requires_grad:
                raise RunError(
                    f"{self.stage.file} returns a loss that needs no gradient, so nothing would be "
                    "trained; compile again"
                )
            return [results[0] * weight]
        for index, result in enumerate(results):
            if result.requires_grad and not self.sent_need_grad[index]:
                raise RunError(
                    f"the plan says that {self.stage.sends[index]} needs no gradient, but it does; "
                    "compile again"
                )
        return [get_gradient_edge(result) if result.requires_grad else None for result in results]

    def _backward(self, roots: list[Root], gradients: Tensors) -> None:
        if self.last:
            (loss,) = roots
            assert isinstance(loss, torch.Tensor)
            torch.autograd.backward([loss])
            return
        needing = [root for root, needs in zip(roots, self.sent_need_grad, strict=True) if needs]
        # A tensor passed through is a leaf here: its gradient is that of the output and its own.
        entries = [
            (root, gradient)
            for root, gradient in zip(needing, gradients, strict=True)
            if root is not None
        ]
        if entries:
            edges, gradients_of_edges = zip(*entries, strict=True)
            torch.autograd.backward(list(edges), list(gradients_of_edges))


def _hooks(parameter: nn.Parameter) -> int:
    return len(parameter._post_accumulate_grad_hooks or ())
