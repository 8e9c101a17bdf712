"""This machine as a cluster."""

import os

from pipecut.compiler.inputs.auto import AUTO
from pipecut.compiler.inputs.cluster import Cluster, Device
from pipecut.compiler.inputs.cluster_schema import Link
from pipecut.compiler.inputs.library import kind_of, library
from pipecut.device.local import accelerator, describe, device_count
from pipecut.device.types import CPU, DeviceType
from pipecut.errors import UserFileError

# Assumed: PCIe 4.0 x16 less its protocol, and gloo over loopback.
GPU_LINK = Link.model_validate({"bandwidth": "20GB/s", "latency": "10us"})
CORE_LINK = Link.model_validate({"bandwidth": "1GB/s", "latency": "200us"})
# Assumed of what is beside tensors on each device.
GPU_RESERVE, CORE_RESERVE = 3 * 2**29, 2**28
# More stages than cores are allowed, for tests: the others share.
LEAST_CORES = 16
CORE = "cpu-core"


def this_machine() -> Cluster:
    """This machine's GPUs, or its CPU cores as small devices."""
    gpu = accelerator()
    if gpu is None:
        return _cores()
    devices = tuple(_gpu(gpu, index) for index in range(device_count(gpu)))
    return Cluster(AUTO.value, devices, (GPU_LINK,), None, GPU_RESERVE)


def kind_here(device: DeviceType) -> str:
    """The device kind of this machine's CPU, or of its first GPU.

    One of specs/, or made of the name that the GPU gives itself.
    """
    if device.of_host:
        return CORE
    name = describe(device, 0).name
    return kind_of(name) or name.lower().replace(" ", "-")


def _cores() -> Cluster:
    # Imports torch, which the command line does without until it computes.
    from pipecut.compiler.inputs.probe import probe_cpu

    speed = probe_cpu()
    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // cores
    flops = tuple((precision, speed.flops) for precision in ("bf16", "fp16", "fp32"))
    device = Device(
        CORE, 0, CPU.name, memory, speed.bandwidth, flops, speed.overhead, efficiency=1.0
    )
    devices = (device,) * max(cores, LEAST_CORES)
    return Cluster(AUTO.value, devices, (CORE_LINK,), None, CORE_RESERVE)


def _gpu(gpu: DeviceType, index: int) -> Device:
    local = describe(gpu, index)
    kind = kind_of(local.name)
    if kind is None:
        raise UserFileError(
            f"no device kind for GPU {index} of this machine, '{local.name}': "
            "run pipecut calibrate -o cluster.yaml, which measures it, and give "
            "--cluster cluster.yaml; or write devices: in a cluster file"
        )
    entry = library().devices[kind]
    return Device(
        kind,
        0,
        gpu.name,
        local.memory,
        entry.bandwidth,
        tuple(sorted(entry.flops.items())),
        entry.overhead,
        entry.efficiency,
        names=(local.name,),
    )
