"""How often a node of an exported program draws random numbers."""

from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from pipecut.compiler.trace.lower.dimensions import Dimensions
from pipecut.compiler.trace.opaque.operators import OPAQUE
from pipecut.model.draws import CountDraws, may_draw


def count_draws(node: fx.Node, dimensions: Dimensions) -> int:
    """Draws of one call for one microbatch, counted on fake tensors; an opaque module's are one."""
    if node.target in OPAQUE:
        return 1
    if not (isinstance(node.target, torch._ops.OpOverload) and may_draw(node.target)):
        return 0
    with FakeTensorMode():
        arguments = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
        args, kwargs = tree_map(lambda leaf: _sized(leaf, dimensions), arguments)
        with CountDraws() as counting:
            node.target(*args, **kwargs)
    return int(counting.count)


def _sized(leaf: Any, dimensions: Dimensions) -> Any:
    """A tensor or size for one microbatch: some kernels take no symbolic sizes."""
    if isinstance(leaf, torch.SymInt):
        return dimensions.of(leaf).number
    if not isinstance(leaf, torch.Tensor):
        return leaf
    sizes = [dimensions.of(size).number for size in leaf.shape]
    strides = [dimensions.of(stride).number for stride in leaf.stride()]
    return torch.empty_strided(sizes, strides, dtype=leaf.dtype)
