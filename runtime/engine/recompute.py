"""Run a stage's forward a second time exactly as the first: same random numbers, same buffers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from pipecut.device.work import fork_rng, rng_state, set_rng_state
from pipecut.errors import RunError


@dataclass(frozen=True)
class Captured:
    """What a forward began with: states of generators, and values of buffers that it writes."""

    random: torch.Tensor
    random_of_device: torch.Tensor | None
    buffers: dict[str, torch.Tensor]


def capture(module: nn.Module, device: torch.device, written: list[str]) -> Captured:
    """Capture what the next forward begins with. `written` names the buffers that it writes."""
    buffers = dict(module.named_buffers(remove_duplicate=False))
    values = {name: buffers[name].clone() for name in written}
    return Captured(torch.get_rng_state(), rng_state(device), values)


@contextmanager
def replaying(module: nn.Module, device: torch.device, captured: Captured) -> Iterator[None]:
    """Begin as captured; afterwards random numbers and buffers go on from where they were.

    The backward belongs inside: autograd refuses a buffer that changes between the two.
    """
    buffers = dict(module.named_buffers(remove_duplicate=False))
    current = {name: buffers[name].clone() for name in captured.buffers}
    with fork_rng(device), torch.no_grad():
        torch.set_rng_state(captured.random)
        set_rng_state(device, captured.random_of_device)
        for name, value in captured.buffers.items():
            buffers[name].copy_(value)
        with torch.enable_grad():
            yield
        for name, value in current.items():
            buffers[name].copy_(value)


def check_untouched(tensors: list[torch.Tensor], versions: list[int]) -> None:
    """Raise RunError when a forward wrote to its inputs, so that a second one would see others."""
    if any(tensor._version != version for tensor, version in zip(tensors, versions, strict=True)):
        raise RunError(
            "the stage writes to its own inputs, so its forward cannot run again; "
            "set recompute: never in the job file"
        )
