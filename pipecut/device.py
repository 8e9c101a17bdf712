"""What differs between CPU, CUDA and other devices."""

import ctypes

import torch

# mallopt's names, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def keep_memory() -> None:
    """Tell glibc to keep what is freed: it maps large tensors anew and trims its heap, and each page costs a fault again.

    That costs a rank a tenth of a step and more. Nothing happens with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        # -1 turns trimming off.
        mallopt(TRIM_THRESHOLD, -1)


def flush_cache(device: torch.device) -> None:
    """Write over a GPU's L2 cache, so that what is measured next reads its tensors from memory, as in a step."""
    size = int(torch.cuda.get_device_properties(device).L2_cache_size)
    torch.empty(2 * size, dtype=torch.uint8, device=device).zero_()
