"""Calls of equal layers that do the same: their first and second are traced, and their last."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipecut.compiler.trace.stamp.call_form import CallForm, ResultForm
from pipecut.compiler.trace.stamp.layers import FEWEST, EqualLayers, Layer, differences
from pipecut.compiler.trace.stamp.node_names import Wanted
from pipecut.compiler.trace.stamp.reached import Reached
from pipecut.compiler.trace.stamp.same_value import same_value
from pipecut.compiler.trace.watch.attributes import MISSING, Place


@dataclass(frozen=True)
class Asked:
    """A layer as it stands when it is called, and the form of the call."""

    layer: Layer
    form: CallForm
    structure: Any
    attributes: Mapping[Place, Any]


@dataclass(frozen=True)
class Traced:
    """A call that was traced.

    `reads` are the attributes that its forward read, of those that may differ; `nodes` those that
    it made; `dropouts` counts calls of F.dropout; `change` is what it left behind, or "".
    """

    number: int
    asked: Asked
    reads: frozenset[Place]
    nodes: tuple[Wanted, ...]
    dropouts: int
    results: ResultForm
    change: str


@dataclass
class Kind:
    """Calls that do what a first one does. `broken` says why none can be stamped; "" if some can.

    `members` are the numbers, among equal layers, of those that are of this kind by their
    attributes.
    """

    equal: EqualLayers
    first: Traced
    reached: Reached
    broken: str = ""
    second: Traced | None = None
    last: Traced | None = None
    stamped: int = 0
    members: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        begin = self.first.asked.layer.number
        self.members = tuple(
            layer.number
            for layer in self.equal.layers[begin:]
            if self._same_reads(layer.attributes())
        )
        if len(self.members) < FEWEST:
            self.broken = "too few layers are equal"
        elif self.first.change:
            self.broken = f"forward changes {self.first.change}"
        else:
            self.broken = self.reached.unknown

    def takes(self, asked: Asked) -> bool:
        """Whether a call does what the first one did, going by all that it could read."""
        first = self.first.asked
        return (
            asked.form == first.form
            and asked.structure == first.structure
            and self._same_reads(asked.attributes)
            and differences(first.attributes, asked.attributes) <= self.equal.differing
        )

    def check_surroundings(self) -> None:
        """Break where what is beside a call's arguments is not as it was for the first one."""
        self.broken = self.broken or self.reached.changed()

    def is_traced(self, layer: Layer) -> bool:
        """Whether a layer of this kind is one of those that are traced."""
        return self.second is None or layer.number == self.members[-1]

    def add(self, traced: Traced) -> None:
        """A traced call of this kind."""
        reference = self.second or self.first
        same = traced.reads == reference.reads and traced.results == reference.results
        if not same or traced.change:
            self.broken = traced.change or "two of them read or return other things"
        if self.second is None:
            self.second = traced
        else:
            self.last = traced
            if traced.nodes != reference.nodes:
                self.broken = "the last one makes other nodes"

    def _same_reads(self, attributes: Mapping[Place, Any]) -> bool:
        first = self.first.asked.attributes
        same: Callable[[Place], bool] = lambda place: same_value(  # noqa: E731
            first.get(place, MISSING), attributes.get(place, MISSING)
        )
        return all(map(same, self.first.reads))
