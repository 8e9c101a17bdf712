"""Arguments of a node as the graph has them: references, sizes in `batch`, numbers, dtypes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from pipecut.compiler.graph import Literal, Ref, Sym
from pipecut.compiler.trace.lower.dimensions import (
    DependsOnData,
    Dimensions,
    NeedsFixedBatch,
    follows_data,
)
from pipecut.compiler.trace.lower.names import Names
from pipecut.compiler.trace.lower.source import where
from pipecut.errors import TraceError


@dataclass(frozen=True)
class Arguments:
    """Turns arguments of a program's nodes into those of the graph's operators."""

    names: Names
    dimensions: Dimensions

    def of(self, argument: Any, prefix: str) -> Any:
        """Raises TraceError for what stage code cannot write."""
        match argument:
            case fx.Node():
                return self._node(argument, prefix)
            case torch.SymInt():
                return self._size(argument)
            case list() | tuple():
                return tuple(self.of(item, prefix) for item in argument)
            case torch.device():
                return Literal("device")
            case torch.dtype() | torch.layout() | torch.memory_format():
                return Literal(str(argument))
            case None | bool() | int() | float() | str() | complex():
                return argument
        raise TraceError(
            f"an operator takes a {type(argument).__name__}, which pipecut cannot write as code"
        )

    def _node(self, node: fx.Node, prefix: str) -> Any:
        match node.meta.get("val"):
            case torch.SymInt() as size:
                return self._size(size)
            case bool() | int() | float() as number:
                return number
            case (torch.SymFloat() | torch.SymBool()) as number:
                if any(map(follows_data, number.node.expr.free_symbols)):
                    raise DependsOnData(
                        f"a number depends on data ({number}){where(node)}; "
                        "pipecut needs numbers that stay the same"
                    )
                raise NeedsFixedBatch(
                    "a number depends on the batch size in a way that stage code cannot write "
                    f"({number}){where(node)}"
                )
        return Ref(self.names.of(node, prefix))

    def _size(self, size: torch.SymInt) -> int | Sym:
        dimension = self.dimensions.of(size)
        code = dimension.code
        return code if isinstance(code, int) else Sym(code, dimension.read)


def references(argument: Any) -> Iterator[str]:
    """Names of all values that an argument refers to."""
    match argument:
        case Ref():
            yield argument.name
        case Sym():
            yield from argument.read
        case list() | tuple():
            for item in argument:
                yield from references(item)
        case dict():
            yield from references(tuple(argument.values()))
