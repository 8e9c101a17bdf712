"""Operators on fake tensors whose results' sizes depend on data: with numbers for these sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from pipecut.compiler.operators.data_sizes import guess_of, makes_size, most_of


class DataSized(TorchDispatchMode):
    """Around operators on the fake tensors of a mode.

    A size that depends on data is `number`; without one, the most that it can be, and of what has
    no most, `unbounded`.
    """

    def __init__(
        self, mode: FakeTensorMode, number: int | None = None, unbounded: int | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.mode, self.number, self.unbounded = mode, number, unbounded
        self.symbols = ShapeEnv()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator; what it makes has numbers for sizes."""
        kwargs = kwargs or {}
        if not makes_size(func, args):
            return func(*args, **kwargs)
        return self.run(func, args, kwargs)

    def run(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What a call makes that makes such a size."""
        number = self.number
        if number is None:
            number = most_of(func, args, kwargs)
        if number is None:
            number = self.unbounded if self.unbounded is not None else guess_of((args, kwargs))
        # With symbols the mode says what the call makes; for this call alone.
        self.mode.shape_env = self.symbols
        try:
            made = func(*args, **kwargs)
        finally:
            self.mode.shape_env = None
        return tree_map_only(torch.Tensor, lambda tensor: _with_number(tensor, number), made)


def _with_number(tensor: torch.Tensor, number: int) -> torch.Tensor:
    """A tensor that has a number for each symbol."""

    def plain(size: Any) -> int:
        if not isinstance(size, torch.SymInt):
            return int(size)
        return int(size.node.expr.subs(dict.fromkeys(size.node.expr.free_symbols, number)))

    sizes, strides = map(plain, tensor.shape), map(plain, tensor.stride())
    return torch.empty_strided(list(sizes), list(strides), dtype=tensor.dtype)
