"""What a process of a CPU rank sets up: nothing that another type of device needs."""

import ctypes
from types import SimpleNamespace

import pytest
import torch

from pipecut.device import memory
from pipecut.device.memory import MMAP_MAX, TRIM_THRESHOLD, keep_memory

HOST, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_freed_memory_is_kept_where_tensors_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda name, value: calls.append((name, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    keep_memory(GPU)
    assert calls == []
    keep_memory(HOST)
    assert dict(calls) == {MMAP_MAX: 0, TRIM_THRESHOLD: -1}


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    keep_memory(HOST)


def test_the_cache_is_overwritten_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The write is twice as large as the cache."""
    properties = SimpleNamespace(L2_cache_size=50)
    module = SimpleNamespace(get_device_properties=lambda device: properties)
    monkeypatch.setattr(memory, "module_of", lambda device: module)
    sizes: list[int] = []
    empty = torch.empty

    def on_host(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        assert device == GPU
        sizes.append(size)
        return empty(size, dtype=dtype)

    monkeypatch.setattr(torch, "empty", on_host)
    memory.flush_cache(GPU)
    assert sizes == [100]
