"""Layers of a graph as pieces, timed whole: what single operators overstate or understate shows here.

Pieces run in chains, forward one after the other and backward in the reverse order, as a stage does: each has the tensors that
the model makes, in memory that the others have meanwhile pushed out of the caches.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from pipecut.compiler.graph import Graph
from pipecut.compiler.profile.timing import SECONDS, Timed, enough, medians, now
from pipecut.compiler.stages.build import build
from pipecut.compiler.stages.cut import Cut, batch_inputs_of
from pipecut.device.memory import free_bytes

# Of the memory that is free, the part that a chain may fill.
PART = 0.25


@dataclass(frozen=True)
class Layer:
    """Operators in program order that one layer, or one module outside the layers, makes in a row."""

    module: str
    operators: tuple[int, ...]


@dataclass(frozen=True)
class Ready:
    """A piece that can run. Of each tensor given, `needs` says whether it needs a gradient, `copied` whether it is written to."""

    cut: Cut
    module: nn.Module
    given: tuple[str, ...]
    needs: tuple[bool, ...]
    copied: tuple[bool, ...]


def layers_of(graph: Graph) -> list[Layer]:
    """Every operator is in one piece."""
    runs: list[tuple[str, list[int]]] = []
    for index, operator in enumerate(graph.operators):
        layer = _layer(operator.module)
        # An operator of no module of its own goes with what is around it.
        if runs and (layer == runs[-1][0] or not operator.module):
            runs[-1][1].append(index)
        else:
            runs.append((layer, [index]))
    return [Layer(layer, tuple(own)) for layer, own in runs]


def _layer(module: str) -> str:
    parts = module.split(".")
    numbers = [at for at, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else parts[0]


def chains_of(graph: Graph, pieces: list[Layer], device: torch.device) -> Iterator[list[Layer]]:
    """The pieces in order, so many at a time that their parameters, gradients and results fit well into memory."""
    free = free_bytes(device)
    sizes = {p.value: 2 * p.bytes for p in graph.parameters}
    chain: list[Layer] = []
    filled = 0
    for piece in pieces:
        own = [graph.operators[i] for i in piece.operators]
        size = sum(graph.values[o.name].bytes for o in own if o.name in graph.values)
        size += sum(sizes.get(name, 0) for name in {name for o in own for name in o.inputs})
        if chain and filled + size > PART * free:
            yield chain
            chain, filled = [], 0
        chain.append(piece)
        filled += size
    if chain:
        yield chain


class Runner:
    """Runs chains in order on one device, with random parameters and one batch."""

    def __init__(self, graph: Graph, batch: dict[str, torch.Tensor], device: torch.device) -> None:
        self.graph, self.device = graph, device
        self.values = {given.value: batch[given.name].to(device) for given in graph.batch_inputs}
        self.made, self.roots = graph.producers(), graph.roots()
        self.last_use = {
            name: index
            for index, operator in enumerate(graph.operators)
            for name in operator.inputs
        }
        self.last_use[graph.loss] = len(graph.operators)

    def run(self, chain: list[Layer], timed: bool) -> list[Timed | None]:
        """Go through a chain; seconds of each piece where they are asked for, and where it can run backward by itself."""
        ready = [self._ready(piece) for piece in chain]
        begun = dict(self.values)
        found: list[list[tuple[float, float]]] = [[] for _ in chain]
        failed: set[int] = set()
        begin = time.perf_counter()
        while timed and not enough(
            [sum(map(sum, one)) for one in zip(*found, strict=True)], begin, SECONDS * len(chain)
        ):
            self.values = dict(begun)
            for passes, seconds in zip(found, self._pass(ready, failed), strict=True):
                passes.append(seconds)
        self.values = begun
        for one in ready:
            self._forward(one, grad=False)
        return [
            medians(passes) if timed and at not in failed else None
            for at, passes in enumerate(found)
        ]

    def _pass(self, ready: list[Ready], failed: set[int]) -> list[tuple[float, float]]:
        """Forward and backward seconds of each piece; none of those that `failed`, to which others are added."""
        forward = [0.0] * len(ready)
        backward = [0.0] * len(ready)
        live: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = []
        for at, one in enumerate(ready):
            try:
                forward[at], given, outputs = self._forward(one, grad=at not in failed)
            except RuntimeError:
                # What writes to a tensor of another piece cannot run by itself where gradients are kept.
                failed.add(at)
                _, given, outputs = self._forward(one, grad=False)
            live.append((given, outputs))
        gradients: dict[str, torch.Tensor] = {}
        for at in reversed(range(len(ready))):
            given, outputs = live.pop()
            if at in failed:
                continue
            pairs = [
                (name, o)
                for name, o in zip(ready[at].cut.sends, outputs, strict=True)
                if o.requires_grad
            ]
            into = [
                gradients.pop(name) if name in gradients else torch.ones_like(o)
                for name, o in pairs
            ]
            start = now(self.device)
            try:
                if pairs:
                    torch.autograd.backward([o for _, o in pairs], into)
            except RuntimeError:
                failed.add(at)
            backward[at] = now(self.device) - start
            for name, tensor in zip(ready[at].given, given, strict=True):
                if tensor.grad is not None:
                    gradients[name] = (
                        gradients[name] + tensor.grad if name in gradients else tensor.grad
                    )
        return list(zip(forward, backward, strict=True))

    def _forward(
        self, one: Ready, grad: bool
    ) -> tuple[float, list[torch.Tensor], list[torch.Tensor]]:
        """Seconds, the tensors it was given, as leaves, and those it gives, which others find in `values`."""
        leaves = [self.values[name].detach() for name in one.given]
        for leaf, need in zip(leaves, one.needs, strict=True):
            leaf.requires_grad_(need and grad)
        with torch.set_grad_enabled(grad):
            given = [
                leaf.clone() if copied else leaf
                for leaf, copied in zip(leaves, one.copied, strict=True)
            ]
            start = now(self.device)
            outputs = list(one.module(*given))
            seconds = now(self.device) - start
        self.values |= dict(zip(one.cut.sends, outputs, strict=True))
        end = one.cut.operators[-1]
        for name in [n for n in self.values if n in self.made and self.last_use.get(n, -1) <= end]:
            del self.values[name]
        return seconds, leaves, outputs

    def _ready(self, piece: Layer) -> Ready:
        cut = self._cut(piece)
        buffers = {b.names[0]: b.data.to(self.device).contiguous().clone() for b in cut.buffers}
        module = build(self.graph, cut, 2, self.device, buffers)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.dim() > 1:
                    # Results of about the size of what is given, however deep the chain.
                    parameter.normal_(0, (parameter.shape[0] / parameter.numel()) ** 0.5)
                else:
                    parameter.fill_(1)
        given = (*cut.receives, *cut.batch_inputs)
        written = {
            self.roots.get(name, name)
            for i in piece.operators
            for name in self.graph.operators[i].writes
        }
        needs = tuple(self.graph.values[name].needs_grad for name in given)
        return Ready(
            cut,
            module,
            given,
            needs,
            tuple(self.roots.get(name, name) in written for name in given),
        )

    def _cut(self, piece: Layer) -> Cut:
        own = set(piece.operators)
        operators = [self.graph.operators[i] for i in piece.operators]
        used = dict.fromkeys(name for operator in operators for name in operator.inputs)
        receives = tuple(n for n in used if n in self.made and self.made[n] not in own)
        sends = tuple(
            o.name for o in operators if self.last_use.get(o.name, -1) > piece.operators[-1]
        )
        batch_inputs = batch_inputs_of(self.graph, receives, used)
        parameters = tuple(p for p in self.graph.parameters if p.value in used)
        buffers = tuple(b for b in self.graph.buffers if b.value in used)
        return Cut(0, piece.operators, receives, sends, batch_inputs, parameters, buffers)
