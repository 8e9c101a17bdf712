"""Measurements -> seconds of every operator, scaled so that layers take what they take whole."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipecut.compiler.graph import Graph
from pipecut.compiler.profile.layers import Layer, layers_of
from pipecut.compiler.profile.operators import operator_key
from pipecut.compiler.profile.store import Store, key_of
from pipecut.compiler.profile.timing import PassSeconds, Timed

# Forward and backward seconds of each operator of a graph.
Seconds = Sequence[tuple[float, float]]


def layer_key(operators: list[str]) -> str:
    """The key of a layer, from those of its operators: equal layers have the same."""
    return key_of(("piece", operators))


def measured_seconds(
    graph: Graph, microbatch: int, kinds: Sequence[str], path: Path
) -> dict[str, Seconds]:
    """For each device kind on which all layers were measured, the seconds of every operator."""
    seconds: dict[str, Seconds] = {}
    for kind in kinds:
        timed = Store(path, kind).read()
        scaled = scaled_seconds(graph, microbatch, timed) if timed else None
        if scaled is not None:
            seconds[kind] = scaled
    return seconds


def pace_when_measured(graph: Graph, microbatch: int, kind: str, path: Path) -> float | None:
    """The median pace at which the operators of a graph were measured; None where none was."""
    stored = Store(path, kind).measurements()
    keys = {operator_key(operator, graph, microbatch) for operator in graph.operators}
    paces = [stored[key].pace for key in keys if key in stored]
    return statistics.median(paces) if paces else None


@dataclass(frozen=True)
class MeasuredLayer:
    """A layer, its seconds as a whole, and of each operator by itself; None was not measured."""

    layer: Layer
    whole: Timed | None
    alone: tuple[Timed | None, ...]

    @property
    def measured(self) -> bool:
        """Whether there is anything to tell its operators' seconds from."""
        return self.whole is not None or any(self.alone)

    @property
    def sum_alone(self) -> PassSeconds:
        """Seconds of the operators that were timed singly."""
        timed = [operator for operator in self.alone if operator is not None]
        return PassSeconds(sum(t.forward for t in timed), sum(t.backward for t in timed))

    def scaled(self) -> list[PassSeconds]:
        """Seconds of each operator, such that their sum is that of the layer where it could run.

        An operator that cannot run by itself is part of the others' time; where none can, the
        first one has it all, which is the call of a module that runs as it is.
        """
        if self.whole is not None and not any(self.alone):
            whole = PassSeconds(self.whole.forward, self.whole.backward)
            return [whole, *(PassSeconds(0.0, 0.0) for _ in self.alone[1:])]
        total = self.sum_alone
        forward = backward = 1.0
        if self.whole is not None:
            forward = self.whole.forward / total.forward if total.forward else 0.0
            backward = self.whole.backward / total.backward if total.backward else 0.0
        return [
            PassSeconds(t.forward * forward, t.backward * backward) if t else PassSeconds(0.0, 0.0)
            for t in self.alone
        ]


def scaled_seconds(
    graph: Graph, microbatch: int, timed: Mapping[str, Timed]
) -> list[PassSeconds] | None:
    """Seconds of every operator. None where a layer and all of its operators are missing."""
    seconds = [PassSeconds(0.0, 0.0)] * len(graph.operators)
    for measured in _measured_layers(graph, microbatch, timed):
        if not measured.measured:
            return None
        for index, scaled in zip(measured.layer.operators, measured.scaled(), strict=True):
            seconds[index] = scaled
    return seconds


def overstated(graph: Graph, microbatch: int, timed: Mapping[str, Timed]) -> float:
    """How much the sum of single operators is above whole layers, relative to these."""
    alone = whole = 0.0
    for measured in _measured_layers(graph, microbatch, timed):
        if measured.whole is not None:
            alone += measured.sum_alone.total
            whole += measured.whole.total
    return alone / whole - 1 if whole else 0.0


def _measured_layers(
    graph: Graph, microbatch: int, timed: Mapping[str, Timed]
) -> Iterator[MeasuredLayer]:
    for layer in layers_of(graph):
        keys = [operator_key(graph.operators[i], graph, microbatch) for i in layer.operators]
        alone = tuple(timed.get(key) for key in keys)
        yield MeasuredLayer(layer, timed.get(layer_key(keys)), alone)
