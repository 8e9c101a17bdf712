"""Layers timed whole: what single operators overstate or understate shows here.

Layers run in chains, forward one after the other and backward in the reverse order, as a stage
does: each has the tensors that the model makes, in memory that the others have meanwhile pushed out
of the caches.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pipecut.compiler.graph import Graph
from pipecut.compiler.profile.layers import Layer
from pipecut.compiler.profile.timing import SECONDS, PassSeconds, Timed, enough, medians, now
from pipecut.compiler.stages.build import build
from pipecut.compiler.stages.cut import Cut, batch_inputs_of, opaque_modules
from pipecut.errors import TraceError


@dataclass(frozen=True)
class RunnableLayer:
    """A layer as a module.

    Of each of its inputs, `needs_grad` is whether it needs a gradient, `written` whether the layer
    writes to it.
    """

    cut: Cut
    module: nn.Module
    inputs: tuple[str, ...]
    needs_grad: tuple[bool, ...]
    written: tuple[bool, ...]


@dataclass(frozen=True)
class ForwardPass:
    """What backward needs of a layer's forward: its inputs, as leaves, and its results."""

    seconds: float
    leaves: list[torch.Tensor]
    outputs: list[torch.Tensor]


class Runner:
    """Runs chains in order on one device, with random parameters and one batch."""

    def __init__(self, graph: Graph, batch: dict[str, torch.Tensor], device: torch.device) -> None:
        self.graph, self.device = graph, device
        names = graph.batch_names()
        self.values = {value: batch[name].to(device) for value, name in names.items()}
        self.producers, self.roots = graph.producers(), graph.roots()
        self.last_use = {
            name: index
            for index, operator in enumerate(graph.operators)
            for name in operator.inputs
        }
        self.last_use[graph.loss] = len(graph.operators)

    def run(self, chain: Sequence[Layer], timed: bool) -> list[Timed | None]:
        """Run a chain, and leave its results for the next one.

        Returns the seconds of each layer if `timed`; None for one that cannot run by itself.
        """
        layers = [self._runnable(layer) for layer in chain]
        before = dict(self.values)
        runs: list[list[PassSeconds]] = []
        failed: set[int] = set()
        begin = time.perf_counter()
        while timed and not enough(
            [sum(seconds.total for seconds in run) for run in runs], begin, SECONDS * len(chain)
        ):
            self.values = dict(before)
            runs.append(self._time_once(layers, failed))
        self.values = before
        for layer in layers:
            self._forward(layer, grad=False)
        return [
            medians([run[at] for run in runs]) if timed and at not in failed else None
            for at in range(len(layers))
        ]

    def _time_once(self, layers: list[RunnableLayer], failed: set[int]) -> list[PassSeconds]:
        """Seconds of each layer; 0 backward for those in `failed`, to which it adds others."""
        passes = [self._forward_or_fail(at, layer, failed) for at, layer in enumerate(layers)]
        forward = [done.seconds for done in passes]
        backward = [0.0] * len(layers)
        gradients: dict[str, torch.Tensor] = {}
        for at in reversed(range(len(layers))):
            # Dropped when its turn is over, as a stage drops what it saved.
            done = passes.pop()
            if at not in failed:
                backward[at] = self._backward(at, layers[at], done, gradients, failed)
        return [PassSeconds(f, b) for f, b in zip(forward, backward, strict=True)]

    def _forward_or_fail(self, at: int, layer: RunnableLayer, failed: set[int]) -> ForwardPass:
        try:
            return self._forward(layer, grad=at not in failed)
        except Exception:
            # What writes to a tensor of another layer cannot run where gradients are kept.
            failed.add(at)
            return self._forward(layer, grad=False)

    def _forward(self, layer: RunnableLayer, grad: bool) -> ForwardPass:
        """The layer's results go to `values`, and what no later layer uses leaves it."""
        leaves = [self.values[name].detach() for name in layer.inputs]
        for leaf, needs in zip(leaves, layer.needs_grad, strict=True):
            leaf.requires_grad_(needs and grad)
        with torch.set_grad_enabled(grad):
            inputs = [
                leaf.clone() if written else leaf
                for leaf, written in zip(leaves, layer.written, strict=True)
            ]
            start = now(self.device)
            try:
                outputs = list(layer.module(*inputs))
            except Exception as error:
                if grad or not layer.cut.opaque:
                    raise
                raise TraceError(
                    f"'{layer.cut.opaque[0]}' runs as it is, and fails with random parameters "
                    f"({type(error).__name__}: {error}), so it cannot be timed; compile with "
                    "--costs roofline"
                ) from error
            seconds = now(self.device) - start
        self.values |= dict(zip(layer.cut.sends, outputs, strict=True))
        self._drop_unused(after=layer.cut.operators[-1])
        return ForwardPass(seconds, leaves, outputs)

    def _drop_unused(self, after: int) -> None:
        results = [name for name in self.values if name in self.producers]
        for name in results:
            if self.last_use.get(name, -1) <= after:
                del self.values[name]

    def _backward(
        self,
        at: int,
        layer: RunnableLayer,
        done: ForwardPass,
        gradients: dict[str, torch.Tensor],
        failed: set[int],
    ) -> float:
        """Seconds; takes the gradients of the layer's results and adds those of its inputs."""
        outputs, output_gradients = [], []
        for name, output in zip(layer.cut.sends, done.outputs, strict=True):
            if output.requires_grad:
                outputs.append(output)
                output_gradients.append(
                    gradients.pop(name) if name in gradients else torch.ones_like(output)
                )
        start = now(self.device)
        try:
            if outputs:
                torch.autograd.backward(outputs, output_gradients)
        except RuntimeError:
            failed.add(at)
        seconds = now(self.device) - start
        for name, leaf in zip(layer.inputs, done.leaves, strict=True):
            if leaf.grad is not None:
                gradients[name] = gradients[name] + leaf.grad if name in gradients else leaf.grad
        return seconds

    def _runnable(self, layer: Layer) -> RunnableLayer:
        cut = self._cut(layer)
        buffers = {b.names[0]: b.data.to(self.device).contiguous().clone() for b in cut.buffers}
        module = build(self.graph, cut, 2, self.device, buffers)
        _initialise(module)
        inputs = (*cut.receives, *cut.batch_inputs)
        operators = [self.graph.operators[index] for index in layer.operators]
        written = {self._root(name) for operator in operators for name in operator.writes}
        return RunnableLayer(
            cut,
            module,
            inputs,
            tuple(self.graph.values[name].needs_grad for name in inputs),
            tuple(self._root(name) in written for name in inputs),
        )

    def _root(self, name: str) -> str:
        """The value whose storage a value has."""
        return self.roots.get(name, name)

    def _cut(self, layer: Layer) -> Cut:
        """The layer as a stage would hold it."""
        indices = set(layer.operators)
        operators = [self.graph.operators[index] for index in layer.operators]
        used = dict.fromkeys(name for operator in operators for name in operator.inputs)
        results = [name for name in used if name in self.producers]
        receives = tuple(name for name in results if self.producers[name] not in indices)
        last = layer.operators[-1]
        sends = tuple(o.name for o in operators if self.last_use.get(o.name, -1) > last)
        batch_inputs = batch_inputs_of(self.graph, receives, used)
        parameters = tuple(p for p in self.graph.parameters if p.value in used)
        buffers = tuple(b for b in self.graph.buffers if b.value in used)
        return Cut(
            *(0, layer.operators, receives, sends, batch_inputs, parameters, buffers),
            opaque=opaque_modules(operators),
        )


def _initialise(module: nn.Module) -> None:
    """Weights whose results are of about the size of their inputs, however deep the chain."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                # The inverse root of what each output sums over: numel / shape[0].
                parameter.normal_(0, (parameter.shape[0] / parameter.numel()) ** 0.5)
            else:
                parameter.fill_(1)
