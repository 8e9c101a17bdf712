"""Parameters that share memory are found while a model is built, real or on meta."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipecut.errors import TraceError
from pipecut.model.building.on_meta import build_on_meta
from pipecut.model.building.shared_memory import SharedMemory, buffers_that_share


def two_views() -> nn.Module:
    """Two parameters over one storage."""
    storage = torch.zeros(8)
    module = nn.Module()
    module.left = nn.Parameter(storage[:6])
    module.right = nn.Parameter(storage[4:])
    return module


def tied() -> nn.Module:
    """One parameter with two names."""
    module = nn.Module()
    module.left = nn.Parameter(torch.zeros(8))
    module.right = module.left
    return module


def apart() -> nn.Module:
    """Two parameters in different parts of one storage."""
    storage = torch.zeros(8)
    module = nn.Module()
    module.left = nn.Parameter(storage[:4])
    module.right = nn.Parameter(storage[4:])
    return module


def frozen_views() -> nn.Module:
    """Two views that nobody trains."""
    return two_views().requires_grad_(False)


def buffer_of_a_parameter() -> nn.Module:
    """A buffer that looks at a parameter."""
    module = nn.Linear(2, 2)
    module.register_buffer("seen", module.weight.data[0])
    return module


def attribute_of_a_parameter() -> nn.Module:
    """A list of tensors, one of which looks at a parameter."""
    module = nn.Linear(2, 2)
    module.kept = [torch.zeros(1), module.weight.data]  # type: ignore[assignment]
    return module


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (two_views, "parameters 'left' and 'right' share memory.*model.right = model.left"),
        (buffer_of_a_parameter, "buffer 'seen' shares memory with parameter 'weight'.*register a"),
        (
            attribute_of_a_parameter,
            "attribute 'kept' shares memory with parameter 'weight'.*keep a",
        ),
    ],
)
def test_shared_memory_is_refused(factory: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        SharedMemory().check(factory())


@pytest.mark.parametrize("factory", [tied, apart, frozen_views, lambda: nn.Linear(2, 2)])
def test_what_no_step_changes_twice_is_taken(factory: Callable[[], nn.Module]) -> None:
    SharedMemory().check(factory())
    build_on_meta(factory, 0)


def test_views_are_found_though_meta_has_no_memory() -> None:
    with pytest.raises(TraceError, match="parameters 'left' and 'right' share memory"):
        build_on_meta(two_views, 0)


def test_memory_that_went_to_meta_and_was_used_again_is_no_pair() -> None:
    memory = SharedMemory()
    for _ in range(3):
        real = nn.Parameter(torch.zeros(8))
        memory.note(real, nn.Parameter(torch.zeros(8, device="meta")))
        del real
    assert not memory.pairs and len(memory.moved) == 1


def test_buffers_that_share_memory_are_named() -> None:
    module = nn.Module()
    module.register_buffer("whole", torch.zeros(4))
    module.register_buffer("part", module.get_buffer("whole")[1:])
    module.register_buffer("other", torch.zeros(4))
    assert list(buffers_that_share(module)) == [("whole", "part")]
