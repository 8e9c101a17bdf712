"""Tensors of an exported program as values of the graph."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import torch

from pipecut.compiler.graph import Value
from pipecut.compiler.trace.lower.dimensions import Dimensions
from pipecut.errors import TraceError


class Values:
    """All values so far, by name. `given_names` has the user's names of parameters and buffers."""

    def __init__(self, dimensions: Dimensions, given_names: Mapping[str, str]) -> None:
        self.dimensions, self.given_names = dimensions, given_names
        self.by_name: dict[str, Value] = {}
        # Which storage a value has in the trace: two with one number certainly share it.
        self.storage: dict[str, int] = {}

    def add(self, name: str, tensor: torch.Tensor, needs_grad: bool) -> Value:
        """Raises TraceError for a tensor that is not dense."""
        self._refuse_layout(name, tensor)
        dimensions = [self.dimensions.of(size) for size in tensor.shape]
        sizes = tuple(dimension.number for dimension in dimensions)
        value = Value(
            name,
            shape=tuple(dimension.code for dimension in dimensions),
            sizes=sizes,
            strides=tuple(self.dimensions.of(stride).number for stride in tensor.stride()),
            dtype=str(tensor.dtype).removeprefix("torch."),
            bytes=prod(sizes) * tensor.element_size(),
            needs_grad=needs_grad,
        )
        self.by_name[name] = value
        self.storage[name] = tensor.untyped_storage()._cdata
        return value

    def needs_grad_from_here(self, name: str) -> None:
        """Mark a value that a gradient reaches since it was written to."""
        self.by_name[name] = replace(self.by_name[name], needs_grad=True)

    def _refuse_layout(self, name: str, tensor: torch.Tensor) -> None:
        if tensor.layout != torch.strided:
            layout = str(tensor.layout).removeprefix("torch.")
            raise TraceError(
                f"'{self.given_names.get(name, name)}' is a {layout} tensor, "
                "which a plan cannot carry; make it dense, with .to_dense()"
            )
