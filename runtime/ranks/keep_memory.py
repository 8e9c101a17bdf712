"""Memory that tensors leave stays with a CPU rank for the next ones."""

import ctypes

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
