"""Names of a trace's nodes: logged while a layer is traced, taken where an equal one is stamped.

A node is named after its operator and a counter. So a stamped layer takes the names that its nodes
would have had, and every later node has the name that it has in the whole trace.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch.fx.graph
from torch.fx.experimental.proxy_tensor import get_proxy_mode


class NodeNames:
    """The names of one trace."""

    def __init__(self) -> None:
        self._log: list[tuple[str, str]] | None = None
        self._logged_names: Any = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around a trace."""
        namespace: Any = torch.fx.graph._Namespace
        create = namespace.create_name

        def create_name(names: Any, candidate: str, obj: Any) -> str:
            name: str = create(names, candidate, obj)
            if self._log is not None and names is self._logged_names:
                self._log.append((candidate, name))
            return name

        with mock.patch.object(namespace, "create_name", create_name):
            yield

    @contextmanager
    def logged(self) -> Iterator[list[tuple[str, str]]]:
        """Around a layer: what each of its nodes wanted to be called, and is called."""
        # Asked for now: while a node is made, its mode is off.
        self._logged_names = _namespace()
        self._log = log = []
        try:
            yield log
        finally:
            self._log = None

    def take(self, log: list[tuple[str, str]]) -> tuple[str, ...]:
        """The names that the nodes of a log would have now."""
        names = _namespace()
        return tuple(names.create_name(candidate, None) for candidate, _ in log)


def _namespace() -> Any:
    """The names of the graph that is traced now."""
    mode: Any = get_proxy_mode()
    return mode.tracer.graph._graph_namespace if mode is not None else None
