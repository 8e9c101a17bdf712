"""Work on a device: when it is done, how long it took, and which random numbers it draws."""

from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Protocol

import torch

from pipecut.device.local import module_of
from pipecut.device.types import DEVICE_TYPES, type_of


class Event(Protocol):
    """A moment on a device's stream, as torch.cuda.Event."""

    def record(self) -> object:
        """Put it behind what is queued now."""

    def synchronize(self) -> object:
        """Return once the device has come to it."""

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds from this event to a later one."""


def synchronize(device: torch.device) -> None:
    """Return once the device has done all that is queued; a CPU queues nothing."""
    if type_of(device).queued:
        torch.accelerator.synchronize(device)


def begin_autograd(device: torch.device) -> None:
    """Let autograd's own thread take the device's context.

    It does so with its first kernel: where that is cuBLAS's, torch warns that there is no context.
    """
    with torch.enable_grad():
        number = torch.ones((), device=device, requires_grad=True)
        torch.autograd.backward(number * number)


def timing_event(device: torch.device) -> Event:
    """An event between two of which seconds pass, of a device whose work is queued."""
    event: Event = module_of(device).Event(enable_timing=True)
    return event


def sleeping_event(device: torch.device) -> Event:
    """An event for which the host sleeps instead of asking again and again."""
    # torch.Event ignores `blocking`; the type's own Event does not.
    event: Event = module_of(device).Event(blocking=True)
    return event


def rng_state(device: torch.device) -> torch.Tensor | None:
    """The state of the device's own generator; None where the CPU's is the only one."""
    if type_of(device).of_host:
        return None
    state: torch.Tensor = module_of(device).get_rng_state(device)
    return state


def set_rng_state(device: torch.device, state: torch.Tensor | None) -> None:
    """Put back what `rng_state` returned."""
    if state is not None and not type_of(device).of_host:
        module_of(device).set_rng_state(state, device)


def fork_rng(device: torch.device) -> AbstractContextManager[None]:
    """The CPU's generator and the device's own are afterwards as they were."""
    kind = type_of(device)
    # The CPU's generator is always forked.
    return torch.random.fork_rng([] if kind.of_host else [device], device_type=kind.name)


@cache
def _accelerator_module() -> Any | None:
    """torch's module of the accelerator that torch was built for, present or not."""
    built_for = torch.accelerator.current_accelerator()
    if built_for is None or built_for.type not in DEVICE_TYPES:
        return None
    return torch.get_device_module(built_for)


def generators() -> list[torch.Generator]:
    """The CPU's default generator, and that of the accelerator in use."""
    module = _accelerator_module()
    if module is None or not module.is_initialized():
        return [torch.default_generator]
    return [torch.default_generator, module.default_generators[module.current_device()]]
