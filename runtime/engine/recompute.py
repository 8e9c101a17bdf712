"""Run a stage's forward a second time, exactly as the first: same random numbers, same buffers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from pipecut.device.work import fork_rng, rng_state, set_rng_state
from pipecut.errors import RunError


@dataclass(frozen=True)
class Before:
    """What a forward began with: states of the random number generators, values of the buffers that it changes."""

    random: torch.Tensor
    random_of_device: torch.Tensor | None
    buffers: dict[str, torch.Tensor]


def note(module: nn.Module, device: torch.device, changing: list[str]) -> Before:
    """Note what the forward that comes next begins with. `changing` names the buffers that it writes."""
    held = dict(module.named_buffers(remove_duplicate=False))
    of_device = rng_state(device)
    return Before(torch.get_rng_state(), of_device, {name: held[name].clone() for name in changing})


@contextmanager
def again(module: nn.Module, device: torch.device, before: Before) -> Iterator[None]:
    """Begin as noted; afterwards random numbers and buffers go on from where they were.

    The backward belongs inside: autograd refuses a buffer that changes between the two.
    """
    held = dict(module.named_buffers(remove_duplicate=False))
    now = {name: held[name].clone() for name in before.buffers}
    with fork_rng(device), torch.no_grad():
        torch.set_rng_state(before.random)
        set_rng_state(device, before.random_of_device)
        for name, value in before.buffers.items():
            held[name].copy_(value)
        with torch.enable_grad():
            yield
        for name, value in now.items():
            held[name].copy_(value)


def check_untouched(tensors: list[torch.Tensor], versions: list[int]) -> None:
    """Raises RunError when a forward wrote to what it was given: a second one would begin with something else."""
    if any(tensor._version != version for tensor, version in zip(tensors, versions, strict=True)):
        raise RunError(
            "the stage writes to its own inputs, so its forward cannot run again; set recompute: never in the job file"
        )
