"""Which tensors share memory: against every element, on random views of one storage."""

from typing import Any

import numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipecut.model.building import regions
from pipecut.model.building.regions import Region, meeting, placed


def elements(tensor: torch.Tensor, size: int) -> set[int]:
    """Positions in the storage, one by one."""
    numbers = torch.arange(size)
    view = numbers.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    return set(view.flatten().tolist())


@st.composite
def views(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Shape, strides and offset within a storage of 40 elements."""
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    strides = tuple(draw(st.integers(0, 6)) for _ in shape)
    return shape, strides, draw(st.integers(0, 3))


@given(views(), views())
def test_views_meet_where_they_have_an_element_in_common(left: Any, right: Any) -> None:
    storage = torch.zeros(40)
    first, second = storage.as_strided(*left), storage.as_strided(*right)
    common = bool(elements(first, 40) & elements(second, 40))
    assert Region.of(first).meets(Region.of(second)) == common
    assert Region.of(second).meets(Region.of(first)) == common


def test_ranges_alone_decide_on_large_storages(monkeypatch: Any) -> None:
    storage = torch.zeros(40)
    even, odd = Region.of(storage[::2]), Region.of(storage[1::2])
    assert not even.meets(odd)
    monkeypatch.setattr(regions, "EXACT", 10)
    assert even.meets(odd) and not Region.of(storage[:4]).meets(Region.of(storage[4:8]))


def test_views_of_two_types_meet_by_their_bytes() -> None:
    storage = torch.zeros(8)
    whole, half = Region.of(storage[2:4]), Region.of(storage.view(torch.float16)[8:10])
    assert not whole.meets(half)
    assert Region.of(storage[4:5]).meets(half)


def test_two_tensors_over_one_numpy_array_meet() -> None:
    array = numpy.zeros(8, numpy.float32)
    left, right = torch.from_numpy(array[:5]), torch.from_numpy(array[4:])
    named = [("left", left), ("right", right), ("far", torch.zeros(8))]
    pairs = list(meeting(placed(named)))
    assert pairs and all({id(a), id(b)} == {id(left), id(right)} for a, b in pairs)


def test_meta_tensors_meet_within_their_storage_alone() -> None:
    storage = torch.zeros(8, device="meta")
    named = [("a", storage[:5]), ("b", storage[4:]), ("c", torch.zeros(8, device="meta"))]
    assert [(a.shape[0], b.shape[0]) for a, b in meeting(placed(named))] == [(5, 4)]


def test_empty_and_sparse_tensors_lie_nowhere() -> None:
    assert not placed([("empty", torch.zeros(0)), ("sparse", torch.eye(2).to_sparse())])


def test_memory_that_went_is_gone() -> None:
    tensor = torch.zeros(4)
    region = Region.of(tensor)
    assert not region.gone
    del tensor
    assert region.gone
