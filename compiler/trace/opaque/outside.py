"""Tensors that a module reaches beside those that it is given and holds: globals, attributes."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipecut.compiler.trace.rehearse.recording import user_line
from pipecut.errors import TraceError


@dataclass(frozen=True)
class _Reached:
    """A tensor from outside, its version when it was first met, and the line that met it."""

    tensor: torch.Tensor
    version: int
    line: str


@dataclass(frozen=True)
class Kept:
    """What a forward wrote to outside of its module, as it left that."""

    tensor: torch.Tensor
    values: torch.Tensor
    line: str


class Outside(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Around a forward of a module: notes tensors that no operator made within it.

    `inside` are those that it is given and holds, `of_model` the names of all parameters and
    buffers of the model, by storage.
    """

    def __init__(self, inside: Sequence[torch.Tensor], of_model: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.of_model = of_model
        # Storages that live as long as the forward, and those that are made in it.
        self.known = set(map(storage_of, inside))
        self.reached: dict[int, _Reached] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            storage = storage_of(tensor)
            if storage not in self.known and storage not in self.reached:
                line = user_line(sys._getframe(1))
                self.reached[storage] = _Reached(tensor, tensor._version, line)
        result = func(*args, **(kwargs or {}))
        self.known |= {storage_of(tensor) for tensor in _tensors(result)} - self.reached.keys()
        return result

    def refuse_others(self, what: str) -> None:
        """Raises TraceError for a parameter or buffer of another module."""
        for storage, reached in self.reached.items():
            if storage in self.of_model:
                raise TraceError(
                    f"{what} uses '{self.of_model[storage]}' {reached.line}, which is none of its "
                    "own parameters and buffers, so no stage would have it there; hand it to the "
                    "module as an argument, or make the module around both opaque"
                )

    def kept(self) -> list[Kept]:
        """What the forward wrote to, and left behind."""
        return [
            Kept(reached.tensor, reached.tensor.detach().clone(), reached.line)
            for reached in self.reached.values()
            if reached.tensor._version != reached.version
        ]


def refuse_moved(what: str, kept: Sequence[Kept]) -> None:
    """Raises TraceError where later forwards left other values: a table that is filled may be."""
    for state in kept:
        if not torch.equal(state.tensor, state.values):
            raise TraceError(
                f"{what} writes to a tensor that is none of its buffers {state.line}, and a plan "
                "runs forwards in an order of its own, some of them twice; register it as a "
                "buffer (register_buffer)"
            )


def storage_of(tensor: torch.Tensor) -> int:
    """What tells a tensor's memory from that of others."""
    return int(tensor.untyped_storage()._cdata)


def _tensors(value: Any) -> list[torch.Tensor]:
    return [
        leaf
        for leaf in tree_leaves(value)
        if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided and not leaf.is_nested
    ]
