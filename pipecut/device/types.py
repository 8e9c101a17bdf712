"""What differs between types of devices, in one table; only files of this folder compare types.

A new type is a new entry. Imports no torch, since the launcher reads it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

# The types that files may name; the table below has an entry for each.
TypeName = Literal["cuda", "cpu"]
NCCL, GLOO = "nccl", "gloo"
MIB = 2**20


@dataclass(frozen=True)
class DeviceType:
    """What the rest of the code asks of a type of device, in place of its name.

    - `name`: torch's name of the type.
    - `backend`: the backend of torch.distributed that carries tensors between such devices.
    - `of_host`: the devices are the host's own cores: a machine may run more ranks than it has.
    - `queued`: the host only queues kernels and runs ahead; events mark when the device is done.
    - `own_memory`: the devices have memory of their own, and an allocator that counts it.
    - `host_carries`: a rank's own core carries its messages, and computes nothing meanwhile.
    - `fused_kernels`: attention and dropout keep less for backward than the CPU's kernels do.
    - `fused_optimizers`: torch's fused optimizers compute the same numbers as its others.
    - `unseeded_recurrence`: dropout between recurrent layers follows a state that no seed sets.
    - `context_bytes`: memory of a process beside its tensors and communicators.
    - `visible`: the environment variable that lists the devices that a process sees.
    """

    name: TypeName
    backend: str
    of_host: bool
    queued: bool
    own_memory: bool
    host_carries: bool
    fused_kernels: bool
    fused_optimizers: bool
    unseeded_recurrence: bool
    context_bytes: int = 0
    visible: str | None = None

    @property
    def uses_nccl(self) -> bool:
        """Whether NCCL carries the tensors: it takes options and memory of the device."""
        return self.backend == NCCL


CPU = DeviceType(
    "cpu",
    GLOO,
    of_host=True,
    queued=False,
    own_memory=False,
    host_carries=True,
    fused_kernels=False,
    # They round differently there.
    fused_optimizers=False,
    unseeded_recurrence=False,
)
CUDA = DeviceType(
    "cuda",
    NCCL,
    of_host=False,
    queued=True,
    own_memory=True,
    host_carries=False,
    fused_kernels=True,
    fused_optimizers=True,
    # cuDNN's.
    unseeded_recurrence=True,
    # A context with the kernels of torch and its libraries. Assumed; benchmarks/gpu.py measures it.
    context_bytes=600 * MIB,
    visible="CUDA_VISIBLE_DEVICES",
)
DEVICE_TYPES: dict[str, DeviceType] = {kind.name: kind for kind in (CPU, CUDA)}
assert set(DEVICE_TYPES) == set(get_args(TypeName))
# For help and errors.
TYPE_NAMES = " or ".join(DEVICE_TYPES)


def type_of(device: "torch.device | str") -> DeviceType:
    """The type of a device, or of that name; CPU for types outside the table, such as meta."""
    return DEVICE_TYPES.get(device if isinstance(device, str) else device.type, CPU)


def common_type(names: Iterable[str]) -> DeviceType | None:
    """The one type of all these names; None where they differ."""
    different = set(names)
    return type_of(different.pop()) if len(different) == 1 else None


def is_traced_device(name: str) -> bool:
    """Whether traced code that names this type means the device that it runs on."""
    return name in DEVICE_TYPES or name == "meta"
