"""Memory of a device and of the process on it: what is free, taken and at the peak."""

import ctypes
import gc
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from pipecut.device.local import describe, module_of
from pipecut.device.types import type_of

# mallopt's names, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def keep_memory(device: torch.device) -> None:
    """Tell glibc to keep what is freed, where tensors are in the host's memory.

    glibc maps large tensors anew and trims its heap, and each page costs a fault again: a tenth of
    a rank's step and more. Nothing happens with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and type_of(device).of_host:
        mallopt(MMAP_MAX, 0)
        # -1 turns trimming off.
        mallopt(TRIM_THRESHOLD, -1)


def flush_cache(device: torch.device) -> None:
    """Overwrite a GPU's L2 cache: what is measured next reads tensors from memory, as in a step."""
    size = int(module_of(device).get_device_properties(device).L2_cache_size)
    torch.empty(2 * size, dtype=torch.uint8, device=device).zero_()


def free_bytes(device: torch.device) -> int:
    """Bytes that no process uses."""
    if type_of(device).own_memory:
        return int(module_of(device).mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def total_bytes(device: torch.device, ranks: int) -> int:
    """Bytes for one of `ranks` on this machine: its device's, or its part of the machine's."""
    if type_of(device).own_memory:
        return describe(type_of(device), device.index or 0).memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // ranks


def bytes_beside_tensors(device: torch.device) -> int:
    """Bytes of a device beside a process's tensors: its context, communicators, workspaces so far.

    The caller holds no tensor there: what is still allocated are workspaces, which cuBLAS keeps per
    thread that computes (32 MiB each on Hopper). Memory of other processes is counted too: nothing
    else may run there. 0 in the host's memory.
    """
    if not type_of(device).own_memory:
        return 0
    gc.collect()
    free, total = module_of(device).mem_get_info(device)
    reserved = torch.accelerator.memory_reserved(device)
    return int(total - free - reserved) + workspace_bytes(device)


def hold_workspaces(device: torch.device) -> None:
    """Let cuBLAS take its workspaces, as a first step would: autograd's thread has its own."""
    a, b = (torch.randn(64, 64, device=device, requires_grad=True) for _ in range(2))
    torch.autograd.backward((a @ b).sum())


def workspace_bytes(device: torch.device) -> int:
    """Bytes that libraries hold in the allocator; the caller holds no tensor on the device."""
    return int(torch.accelerator.memory_allocated(device))


def peak_so_far(device: torch.device) -> int:
    """Bytes at the peak: of the tensors on a device of its own memory, else of the process."""
    if type_of(device).own_memory:
        return int(torch.accelerator.max_memory_allocated(device))
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextmanager
def watch_peak(device: torch.device) -> Iterator[Callable[[], int]]:
    """Reset the device's count of tensors; yields a function that returns the peak in bytes."""
    torch.accelerator.reset_peak_memory_stats(device)
    yield lambda: int(torch.accelerator.max_memory_allocated(device))
