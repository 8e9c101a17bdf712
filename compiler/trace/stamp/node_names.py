"""Nodes of a trace: noted while a layer is traced, and stood for where an equal one is stamped.

A node is named after its operator and a counter, and torch counts anew where it copies a graph. So
a stamped layer has a node, which computes nothing, for each that it would have: every later node is
named as in the whole trace, and the stamped layer's operators are named after those.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch.fx.graph
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pipecut.compiler.trace.stamp.markers import NODE

# Of a marker's node, what says where in the model it is.
PLACE = ("nn_module_stack", "stack_trace", "source_fn_stack", "torch_fn")

NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool)


@dataclass(frozen=True)
class Wanted:
    """What a node wanted to be called, and whether it is a tensor that something needs."""

    name: str
    needed: bool


@dataclass
class NodesOfLayer:
    """Nodes that a layer's trace made, in order; some are gone when it ends."""

    wanted: tuple[Wanted, ...] = ()
    _names: list[tuple[str, str]] = field(default_factory=list)
    _graph: Any = None
    _begin: Any = None

    def finish(self) -> None:
        """The layer is traced: note which of its nodes are needed, by others or as a result."""
        made = {name for _, name in self._names}
        needed: set[str] = set()
        numbers: set[str] = set()
        for node in reversed(self._graph.nodes):
            if node is self._begin:
                break
            if node.name in made:
                users = {user.name for user in node.users}
                if node.is_impure() or users - made or users & needed:
                    needed.add(node.name)
                if isinstance(node.meta.get("val"), NUMBERS):
                    numbers.add(node.name)
        self.wanted = tuple(
            Wanted(candidate, name in needed - numbers) for candidate, name in self._names
        )


class NodeNames:
    """The nodes of one trace, and their names."""

    def __init__(self) -> None:
        self._layer: NodesOfLayer | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around a trace."""
        namespace: Any = torch.fx.graph._Namespace
        create = namespace.create_name

        def create_name(names: Any, candidate: str, obj: Any) -> str:
            name: str = create(names, candidate, obj)
            layer = self._layer
            if layer is not None and names is layer._graph._graph_namespace:
                layer._names.append((candidate, name))
            return name

        with mock.patch.object(namespace, "create_name", create_name):
            yield

    @contextmanager
    def noted(self) -> Iterator[NodesOfLayer]:
        """Around a layer, whose marker is the graph's last node."""
        # Asked for now: while a node is made, the mode that makes it is off.
        graph = _traced_graph()
        self._layer = layer = NodesOfLayer(_graph=graph, _begin=_last(graph))
        try:
            yield layer
        finally:
            self._layer = None

    def stand_for(self, wanted: tuple[Wanted, ...], call: int) -> None:
        """Add nodes in place of those of a layer. The graph's last node is the layer's marker."""
        graph = _traced_graph()
        meta = _last(graph).meta
        place = {key: meta[key] for key in PLACE if key in meta}
        for node in wanted:
            if node.needed:
                made = graph.create_node("call_function", NODE, (call,), {}, node.name)
                made.meta.update(place, val=None)
            else:
                graph._graph_namespace.create_name(node.name, None)


def _traced_graph() -> Any:
    """The graph that is traced now."""
    mode: Any = get_proxy_mode()
    return mode.tracer.graph


def _last(graph: Any) -> Any:
    """The node that a graph ends with now."""
    return next(iter(reversed(graph.nodes)))
