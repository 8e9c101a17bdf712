"""One stage on its device: forward keeps what backward needs, backward gives the gradients of what was received.

A stage that recomputes keeps what it was given alone, and runs its forward again when the gradients come.
"""

import types
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from pipecut.errors import RunError
from pipecut.model.draws import StageDraws
from pipecut.plan.folder import checked_bytes
from pipecut.plan.schema import Plan, Stage
from pipecut.runtime.engine import recompute
from pipecut.runtime.engine.batch_dimensions import batch_dimensions, mark
from pipecut.runtime.engine.weight_gradients import WeightGradStore
from pipecut.runtime.gradients.masters import Masters


def build_module(path: Path, plan: Plan, stage: Stage, device: torch.device) -> nn.Module:
    """Build a stage of a plan folder, uninitialised, on its device. Raises PlanError.

    The very bytes whose hash was compared are compiled: an import would take a cached .pyc beside them.
    """
    source = checked_bytes(path, plan, stage.file)
    module = types.ModuleType(f"pipecut_stage_{stage.index}")
    module.__file__ = str(path / stage.file)
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    built: nn.Module = getattr(module, f"Stage{stage.index}")(device=device)
    return built


def _hooks(parameter: nn.Parameter) -> int:
    return len(parameter._post_accumulate_grad_hooks or ())


Root = torch.Tensor | GradientEdge | None


@dataclass(frozen=True)
class InFlight:
    """A microbatch between forward and backward: `roots` is None, and `before` is not, where the stage recomputes.

    What was sent is not kept, only where its gradient enters; None where it needs none.
    """

    received: list[torch.Tensor]
    batch: list[torch.Tensor]
    weight: float
    roots: list[Root] | None
    before: recompute.Before | None


class RunningStage:
    """A stage and the microbatches it has in flight."""

    def __init__(
        self,
        plan: Plan,
        stage: Stage,
        module: nn.Module,
        later: bool = False,
        masters: Masters | None = None,
        whole: Callable[[nn.Parameter], None] = lambda _: None,
    ) -> None:
        self.stage, self.module = stage, module
        self.masters = masters or Masters(module.parameters())
        # Of each microbatch whose gradients of weights come later, what is to be done for them.
        self.later, self.whole = later, whole
        self.tasks: dict[int, WeightGradStore] = {}
        self.own_hooks = {id(p): _hooks(p) for p in module.parameters()}
        boundaries = {b.left: b for b in plan.boundaries}
        received = boundaries[stage.index - 1].tensors if stage.index else []
        self.takes_grad = [t.needs_grad for t in received]
        sent = boundaries[stage.index].tensors if stage.index in boundaries else []
        self.gives_grad = [t.needs_grad for t in sent]
        self.last = stage.index == len(plan.stages) - 1
        self.changing = [held.names[0] for held in stage.buffers if held.written]
        self.device = next(
            (t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu")
        )
        self.live: dict[int, InFlight] = {}
        self.draws = StageDraws(plan.model.seed, stage.dropouts) if stage.dropouts else None
        self.dimensions = batch_dimensions(plan, stage)
        self.step = self.first = 0

    def forward(
        self,
        microbatch: int,
        received: list[torch.Tensor],
        batch: list[torch.Tensor],
        weight: float,
        grad: bool,
        outputs: dict[str, torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """What the next stage needs, or the loss. `weight` is what the loss is multiplied by for backward.

        Without gradients, what the model gives besides is put into `outputs`.
        """
        for tensor, needs in zip(received, self.takes_grad, strict=True) if grad else ():
            tensor.requires_grad_(needs)
        mark([*received, *batch], self.dimensions)
        if grad and self.stage.recompute:
            given = [*received, *batch]
            before, versions = (
                recompute.note(self.module, self.device, self.changing),
                [t._version for t in given],
            )
            with torch.no_grad(), self._drawing(microbatch):
                results = list(self.module(*given))
            recompute.check_untouched(given, versions)
            self.live[microbatch] = InFlight(received, batch, weight, None, before)
            return results
        aside = self._put_aside(microbatch) if grad else nullcontext()
        with torch.set_grad_enabled(grad), self._drawing(microbatch), aside:
            wanted = {"outputs": outputs} if outputs is not None and self.stage.outputs else {}
            results = list(self.module(*received, *batch, **wanted))
        if grad:
            self.live[microbatch] = InFlight(
                received, batch, weight, self._roots(results, weight), None
            )
        return results

    def begin(self, step: int, first: int) -> None:
        """Of a step: its number, and that of its first microbatch here among those of all replicas."""
        self.step, self.first = step, first

    def _drawing(self, microbatch: int) -> AbstractContextManager[object]:
        return (
            self.draws.at(self.step, self.first + microbatch)
            if self.draws is not None
            else nullcontext()
        )

    def _put_aside(self, microbatch: int) -> AbstractContextManager[object]:
        if not self.later:
            return nullcontext()
        return self.tasks.setdefault(
            microbatch, WeightGradStore(self.masters.take, self.whole, self.own_hooks)
        )

    def written(self) -> list[torch.Tensor]:
        """Buffers that a forward changes."""
        held = dict(self.module.named_buffers(remove_duplicate=False))
        return [held[name] for name in self.changing]

    def weights(self, microbatch: int) -> None:
        """The gradients of weights that a backward put aside."""
        later = self.tasks.pop(microbatch)
        aside = later.weights
        for parameter in self.module.parameters():
            if parameter.requires_grad and id(parameter) not in aside:
                # Its backward has made all of it.
                self.whole(parameter)
        later.do()

    def _roots(self, outputs: list[torch.Tensor], weight: float) -> list[Root]:
        """Where backward begins; the loss is kept itself, since it has no gradient to be given."""
        for index, output in enumerate(outputs if not self.last else []):
            if output.requires_grad and not self.gives_grad[index]:
                raise RunError(
                    f"the plan says that {self.stage.sends[index]} needs no gradient, but it does; compile again"
                )
        if self.last and not outputs[0].requires_grad:
            raise RunError(
                f"{self.stage.file} returns a loss that needs no gradient, so nothing would be trained; compile again"
            )
        if self.last:
            return [outputs[0] * weight]
        return [get_gradient_edge(output) if output.requires_grad else None for output in outputs]

    def backward(self, microbatch: int, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        """Gradients of what was received, in its order, for the tensors that need one."""
        live = self.live.pop(microbatch)
        with (
            recompute.again(self.module, self.device, live.before)
            if live.before is not None
            else nullcontext()
        ):
            roots = live.roots
            if roots is None:
                with self._drawing(microbatch), self._put_aside(microbatch):
                    roots = self._roots(list(self.module(*live.received, *live.batch)), live.weight)
            self._backward(roots, gradients)
        return [
            tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
            for tensor, needs in zip(live.received, self.takes_grad, strict=True)
            if needs
        ]

    def _backward(self, roots: list[Root], gradients: list[torch.Tensor]) -> None:
        pairs: list[tuple[Root, torch.Tensor | None]]
        if self.last:
            loss = roots[0]
            pairs = [
                (loss if isinstance(loss, torch.Tensor) and loss.requires_grad else None, None)
            ]
        else:
            needing = [r for r, needs in zip(roots, self.gives_grad, strict=True) if needs]
            pairs = list(zip(needing, gradients, strict=True))
        # A tensor passed through is a leaf here: its gradient comes from the outputs and the leaf itself together.
        known = [(root, gradient) for root, gradient in pairs if root is not None]
        if known:
            # Tensors and edges are never mixed: the loss is alone.
            reached, gradients_of_reached = zip(*known, strict=True)
            torch.autograd.backward(list(reached), list(gradients_of_reached))
