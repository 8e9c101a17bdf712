"""Modules that forward converts with `.to(...)`, `.float()` and their like.

Most such calls change nothing: a mixture of experts makes sure that its router is in float32.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from pipecut.errors import TraceError

Conversion = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def conversions_change_nothing() -> Iterator[None]:
    """Around a forward. Raises TraceError where it converts a module to what it is not."""
    with mock.patch.object(nn.Module, "_apply", _apply):
        yield


def _apply(module: nn.Module, convert: Conversion, recurse: bool = True) -> nn.Module:
    """In place of nn.Module._apply, which puts new tensors into the module."""
    for held in (module.named_parameters, module.named_buffers):
        for name, tensor in held(recurse=recurse):
            if not _keeps(convert, tensor):
                raise TraceError(
                    f"the model's forward converts {type(module).__name__} (its '{name}' is "
                    f"{str(tensor.dtype).removeprefix('torch.')} on {tensor.device.type}), and a "
                    "plan's parameters stay as they are; convert the module in the factory, or in "
                    "forward its result alone"
                )
    return module


def _keeps(convert: Conversion, tensor: torch.Tensor) -> bool:
    """Whether a conversion returns a tensor of this form itself."""
    with _disable_current_modes():
        alike = torch.zeros([1] * tensor.dim(), dtype=tensor.dtype, device=tensor.device.type)
        return convert(alike) is alike
