"""The devices of this machine: their number, what the driver says of each, this process's own."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipecut.device.types import CPU, DEVICE_TYPES, DeviceType, type_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LocalDevice:
    """A device as its driver describes it: name, bytes, and a unique identity (None: unknown)."""

    name: str
    memory: int
    identity: str | None = None


def accelerator() -> DeviceType | None:
    """The type of this machine's accelerators; None where it has none that the table knows."""
    import torch

    available = torch.accelerator.current_accelerator(check_available=True)
    return DEVICE_TYPES.get(available.type) if available is not None else None


def best_type() -> DeviceType:
    """The accelerator's type, or the CPU's where there is none."""
    return accelerator() or CPU


def is_available(kind: DeviceType) -> bool:
    """Whether this machine has such a device."""
    return kind.of_host or accelerator() == kind


def device_count(kind: DeviceType) -> int:
    """Number of accelerators of this type that the process sees; 0 for the CPU."""
    import torch

    return torch.accelerator.device_count() if accelerator() == kind else 0


def has_devices(kind: DeviceType, ranks: int) -> bool:
    """Whether each of so many ranks can have a device; on a CPU they share its cores."""
    return kind.of_host or device_count(kind) >= ranks


def describe(kind: DeviceType, index: int) -> LocalDevice:
    """What the driver says of an accelerator."""
    properties = _module(kind).get_device_properties(index)
    identity = getattr(properties, "uuid", None)
    return LocalDevice(
        properties.name,
        int(properties.total_memory),
        None if identity is None else str(identity),
    )


def use_device(kind: DeviceType, index: int) -> "torch.device":
    """Make a device this process's current one; of a CPU there is nothing to choose."""
    import torch

    if kind.of_host:
        return torch.device(kind.name)
    torch.accelerator.set_device_index(index)
    return torch.device(kind.name, index)


def on_cpu(tensor: "torch.Tensor") -> bool:
    """Whether a tensor lies in the host's memory, where the CPU's generator fills it."""
    return tensor.device.type == CPU.name


def module_of(device: "torch.device") -> Any:
    """torch's module of a device's type, such as torch.cuda, for what torch.accelerator has not."""
    return _module(type_of(device))


def _module(kind: DeviceType) -> Any:
    import torch

    return torch.get_device_module(kind.name)
