"""An ONNX graph as values: nodes with the shapes of all that they read and write."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any


@dataclass(frozen=True)
class TensorInfo:
    """The shape of a tensor, and what it is made of; bits, since some types have fewer than 8."""

    shape: tuple[int, ...]
    dtype: str
    bits: int

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Their bytes."""
        return -(-self.elements * self.bits // 8)


@dataclass(frozen=True)
class Node:
    """A node; names of inputs that are left out are empty."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class OnnxGraph:
    """Nodes in a topological order; `tensors` has what is known of values by name."""

    nodes: tuple[Node, ...]
    tensors: Mapping[str, TensorInfo]
    initializers: frozenset[str]
    outputs: tuple[str, ...]
