"""What is asked of a GPU, with a stand-in for its module of torch: no GPU is needed."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipecut.device import local, memory, work
from pipecut.device.types import CPU, CUDA

GPU = torch.device("cuda", 1)
GIB = 2**30


class Module:
    """As torch.cuda of two GPUs; notes what is called."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.initialized = True
        self.default_generators = [torch.Generator(), torch.Generator()]

    def is_initialized(self) -> bool:
        return self.initialized

    def current_device(self) -> int:
        return 1

    def get_device_properties(self, index: Any) -> Any:
        self.calls.append(("properties", index))
        return SimpleNamespace(name="H100", total_memory=80 * GIB, uuid="4f1a", L2_cache_size=50)

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return 70 * GIB, 80 * GIB

    def get_rng_state(self, device: torch.device) -> torch.Tensor:
        assert device == GPU
        return torch.tensor([7], dtype=torch.uint8)

    def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
        self.calls.append(("state", state.item(), device))

    def Event(self, **options: bool) -> Any:  # noqa: N802
        return options


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Module:
    module = Module()
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    return module


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> list[Any]:
    """torch.accelerator of a machine with so many GPUs; returns what it was asked to do."""
    asked: list[Any] = []
    there = torch.device("cuda") if count else None
    accelerator = torch.accelerator
    monkeypatch.setattr(accelerator, "current_accelerator", lambda check_available=False: there)
    monkeypatch.setattr(accelerator, "device_count", lambda: count)
    monkeypatch.setattr(accelerator, "set_device_index", lambda index: asked.append(index))
    monkeypatch.setattr(accelerator, "synchronize", lambda device: asked.append(device))
    monkeypatch.setattr(accelerator, "memory_reserved", lambda device: 9 * GIB)
    monkeypatch.setattr(accelerator, "memory_allocated", lambda device: 2**26)
    monkeypatch.setattr(accelerator, "reset_peak_memory_stats", lambda device: asked.append(device))
    monkeypatch.setattr(accelerator, "max_memory_allocated", lambda device: 3 * GIB)
    return asked


def test_a_machine_with_gpus_offers_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 2)
    assert local.best_type() is CUDA and local.is_available(CUDA)
    assert local.device_count(CUDA) == 2 and local.device_count(CPU) == 0
    assert local.has_devices(CUDA, 2) and not local.has_devices(CUDA, 3)


def test_a_machine_without_gpus_offers_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 0)
    assert local.best_type() is CPU and not local.is_available(CUDA)
    assert local.device_count(CUDA) == 0 and not local.has_devices(CUDA, 1)


def test_an_accelerator_that_the_table_lacks_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    other = torch.device("hpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: other)
    assert local.best_type() is CPU


def test_the_driver_describes_a_gpu(module: Module) -> None:
    assert local.describe(CUDA, 1) == local.LocalDevice("H100", 80 * GIB, "4f1a")
    assert module.calls == [("properties", 1)]


def test_a_process_makes_its_gpu_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = with_gpus(monkeypatch, 2)
    assert local.use_device(CUDA, 1) == GPU and asked == [1]


def test_only_queued_work_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = with_gpus(monkeypatch, 2)
    work.synchronize(torch.device("cpu"))
    work.synchronize(GPU)
    assert asked == [GPU]


def test_events_are_of_the_devices_own_kind(module: Module) -> None:
    assert work.timing_event(GPU) == {"enable_timing": True}
    assert work.sleeping_event(GPU) == {"blocking": True}


def test_random_state_is_saved_where_a_device_has_its_own(module: Module) -> None:
    assert work.rng_state(torch.device("cpu")) is None
    state = work.rng_state(GPU)
    work.set_rng_state(torch.device("cpu"), state)
    work.set_rng_state(GPU, None)
    work.set_rng_state(GPU, state)
    assert module.calls == [("state", 7, GPU)]


def test_draws_are_seeded_on_the_gpu_in_use(
    module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, 2)
    work._accelerator_module.cache_clear()
    try:
        assert work.generators() == [torch.default_generator, module.default_generators[1]]
        module.initialized = False
        assert work.generators() == [torch.default_generator]
    finally:
        work._accelerator_module.cache_clear()


def test_memory_is_the_devices_own(module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = with_gpus(monkeypatch, 2)
    assert memory.free_bytes(GPU) == 70 * GIB
    assert memory.total_bytes(GPU, ranks=4) == 80 * GIB
    assert memory.bytes_beside_tensors(GPU) == GIB + 2**26
    with memory.watch_peak(GPU) as peak_bytes:
        assert asked == [GPU]
    assert peak_bytes() == 3 * GIB


def test_the_hosts_memory_is_shared_by_its_ranks() -> None:
    host = torch.device("cpu")
    assert memory.total_bytes(host, ranks=4) == memory.total_bytes(host, ranks=1) // 4
    assert 0 < memory.free_bytes(host) <= memory.total_bytes(host, ranks=1)
    assert memory.bytes_beside_tensors(host) == 0


def test_forked_random_numbers_go_on_from_where_they_were() -> None:
    host = torch.device("cpu")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with work.fork_rng(host):
        torch.rand(5)
    assert torch.equal(torch.rand(3), expected)
