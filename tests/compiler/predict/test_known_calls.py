"""A remembered call makes what it made, on the tensors that it is given now."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from pipecut.compiler.predict.fake_allocations import FakeAllocations
from pipecut.compiler.predict.known_calls import KnownCalls

aten = torch.ops.aten
CALLS: dict[str, Callable[[torch.Tensor], Any]] = {
    "a tensor of its own": lambda x: aten.mul.Tensor(x, 2.0),
    "of another dtype": lambda x: aten.gt.Scalar(x, 0),
    "a view": lambda x: aten.slice.Tensor(x, 0, 1, 3),
    "a view of all": lambda x: aten.t.default(x),
    "written in place": lambda x: aten.add_.Tensor(x, 1.0),
    "several": lambda x: aten.topk.default(x, 2, 0),
    "views of one": lambda x: aten.split.Tensor(x, 2),
    "of a list": lambda x: aten.cat.default([x, x], 1),
    "expanded": lambda x: aten.expand.default(aten.select.int(x, 1, 0), [3, 4]),
}


def facts(result: Any, x: torch.Tensor) -> list[Any]:
    """All that a result shows, and whether it is x or shares its memory."""
    results = result if isinstance(result, tuple | list) else [result]
    memory = x.untyped_storage()._cdata
    return [
        type(result),
        *(
            (
                tuple(t.shape),
                t.stride(),
                t.storage_offset(),
                t.dtype,
                t.device,
                t.untyped_storage().nbytes(),
                t is x,
                t.untyped_storage()._cdata == memory,
            )
            for t in results
        ),
    ]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_makes_the_same_again(name: str) -> None:
    known = KnownCalls()
    seen = []
    for _ in range(3):
        # Each stage has a fake mode of its own.
        with FakeTensorMode() as mode:
            x = torch.empty(4, 4)
            expected = facts(CALLS[name](x), x)
            with FakeAllocations(mode, known, [x]) as allocations:
                seen.append((facts(CALLS[name](x), x), allocations.live))
    assert seen == [(expected, seen[0][1])] * 3


@given(
    st.lists(st.integers(1, 3), min_size=2, max_size=2),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64]),
    st.sampled_from([1, 1.0, True, 2]),
)
@settings(deadline=None, max_examples=60)
def test_what_differs_in_anything_is_another_call(
    sizes: list[int], turned: bool, dtype: torch.dtype, number: Any
) -> None:
    with FakeTensorMode() as mode:
        x = torch.empty(sizes, dtype=dtype)
        x = x.t() if turned else x
        expected = facts(aten.add.Scalar(x, number), x)
        with FakeAllocations(mode, KNOWN, []):
            assert facts(aten.add.Scalar(x, number), x) == expected


# All examples of the test above share it.
KNOWN = KnownCalls()


def test_gradients_of_layers_that_are_remembered_are_as_many_bytes() -> None:
    known, seen = KnownCalls(), []
    for _ in range(2):
        with FakeTensorMode() as mode:
            layer, x = torch.nn.Linear(4, 4), torch.empty(2, 4)
            with FakeAllocations(mode, known, layer.parameters()) as allocations:
                out = torch.nn.functional.gelu(layer(x)).sum()
                forward = allocations.live
                out.backward()
                del out
                seen.append((forward, allocations.live, allocations.peak))
    assert seen[0] == seen[1]
    assert seen[0][1] == 2 * 4 * (16 + 4)


def test_what_depends_on_contents_runs_each_time() -> None:
    known = KnownCalls()
    with FakeTensorMode() as mode, FakeAllocations(mode, known, []):
        x = torch.ones(3)
        x.resize_(2)
        x.resize_(2)
        with pytest.raises(Exception, match="nonzero"):
            torch.nonzero(x)
    remembered = {key[0]: made for key, made in known.made.items() if isinstance(key, tuple)}
    assert remembered[aten.ones.default] is not None
    assert aten.nonzero.default not in remembered
    assert remembered.get(aten.resize_.default) is None
