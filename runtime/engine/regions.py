"""Which modules of a stage torch.compile takes: layers that are alike share what it compiles."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn


def compile_regions(stage: nn.Module, any_batch_size: bool, any_length: bool = False) -> None:
    """Compile a stage's layers, each class once, and what else has code of its own.

    Where no layers are alike, the stage is compiled whole.
    """
    found = regions(stage)
    if not found:
        # What follows the batch is marked with each call (batch_dimensions.py); the rest are
        # constants.
        stage.compile()
    for module in found:
        module.compile()
        if any_batch_size or any_length:
            # nn.Module calls this in place of its forward; a hook would be compiled, too.
            module._compiled_call_impl = partial(_marked, module._compiled_call_impl, any_length)


def _marked(compiled: Any, any_length: bool, *given: Any) -> Any:
    """Call what is compiled; the first dimension of what it is given may follow the batch.

    Any other may follow a length, where batches have lengths of their own.
    """
    for tensor in given:
        if isinstance(tensor, torch.Tensor) and tensor.dim():
            # Weakly: a size that the code has as a number stays a constant.
            dimensions = range(tensor.dim()) if any_length else [0]
            torch._dynamo.maybe_mark_dynamic(tensor, list(dimensions))
    return compiled(*given)


def regions(stage: nn.Module) -> list[nn.Module]:
    """The layers of a stage of which some are alike, and their neighbours; empty without such.

    Modules of torch's own are no regions: single kernels gain nothing.
    """
    layers = {cls for module in stage.modules() for cls in _alike(module)}
    return list(_outermost(stage, layers)) if layers else []


def _alike(module: nn.Module) -> list[type]:
    """Classes of which a module has several numbered members."""
    numbered = [member for name, member in module.named_children() if name.isdigit()]
    count = Counter(type(member) for member in numbered if _has_code(member))
    return [cls for cls, times in count.items() if times > 1]


def _outermost(module: nn.Module, layers: set[type]) -> Iterator[nn.Module]:
    for member in module.children():
        if type(member) in layers:
            yield member
        elif any(type(inner) in layers for inner in member.modules()):
            yield from _outermost(member, layers)
        elif _has_code(member):
            yield member


def _has_code(module: nn.Module) -> bool:
    """Whether a module computes with code of its stage's file."""
    return type(module).forward.__module__ == type(module).__module__ and not (
        type(module).__module__.startswith("torch.")
    )
