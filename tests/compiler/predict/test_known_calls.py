"""A remembered call makes what it made, on the tensors that it is given now."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from pipecut.compiler.predict.hollow_allocations import HollowAllocations
from pipecut.compiler.predict.known_calls import KnownCalls, NotHollowError

aten = torch.ops.aten
NoContents = (DataDependentOutputException, DynamicOutputShapeException)
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
    "less than its storage": lambda x: aten.slice.Tensor(aten.mul.Tensor(x, 2.0), 1, 0, 2),
    "complex": lambda x: aten.view_as_complex.default(aten.view.default(x, [4, 2, 2])),
    "conjugated": lambda x: torch.conj(torch.complex(x, x)),
    "negated": lambda x: torch.conj(torch.complex(x, x)).imag,
    "by indices": lambda x: aten.index.Tensor(x, [torch.empty(3, dtype=torch.int64)]),
    "none among others": lambda x: aten.native_layer_norm_backward.default(
        x, x, [4], x[:, :1], x[:, :1], None, None, [True, False, False]
    ),
}


def facts(result: Any, x: torch.Tensor) -> list[Any]:
    """All that a result shows, and whether it is x or shares its memory."""
    results = result if isinstance(result, tuple | list) else [result]
    memory = x.untyped_storage()._cdata
    return [
        type(result) if isinstance(result, tuple | list) else None,
        *(
            (
                tuple(t.shape),
                t.stride(),
                t.storage_offset(),
                t.dtype,
                t.device,
                t.is_conj(),
                t.is_neg(),
                t.untyped_storage().nbytes(),
                t is x,
                t.untyped_storage()._cdata == memory,
            )
            if t is not None
            else None
            for t in results
        ),
    ]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_makes_the_same_again(name: str) -> None:
    known = KnownCalls()
    with FakeTensorMode():
        x = torch.empty(4, 4)
        expected = facts(CALLS[name](x), x)
    seen = []
    for _ in range(3):
        with HollowAllocations(known) as allocations:
            x = torch.empty(4, 4)
            assert allocations.live == x.nbytes
            result = CALLS[name](x)
            seen.append((facts(result, x), allocations.live))
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
    def made() -> list[Any]:
        x = torch.empty(sizes, dtype=dtype)
        x = x.t() if turned else x
        return facts(aten.add.Scalar(x, number), x)

    with FakeTensorMode():
        expected = made()
    with HollowAllocations(KNOWN):
        assert made() == expected


# All examples of the test above share it.
KNOWN = KnownCalls()


def test_gradients_of_layers_that_are_remembered_are_as_many_bytes() -> None:
    known, seen = KnownCalls(), []
    for _ in range(2):
        with HollowAllocations(known) as allocations:
            layer, x = torch.nn.Linear(4, 4), torch.empty(2, 4)
            before = allocations.live
            assert before == 4 * (16 + 4 + 8)
            out = torch.nn.functional.gelu(layer(x)).sum()
            forward = allocations.live
            out.backward()
            del out
            seen.append((forward, allocations.live - before, allocations.peak))
    assert seen[0] == seen[1]
    assert seen[0][1] == 4 * (16 + 4)


def test_what_a_hollow_tensor_cannot_show_is_refused() -> None:
    with HollowAllocations(KnownCalls()):
        x = torch.empty(3)
        for call in (
            lambda: x.resize_(2),
            lambda: x.sum().item(),
            lambda: x.to_sparse(),
            lambda: torch.add(x, 1.0, out=torch.empty(0)),
        ):
            with pytest.raises((NotHollowError, *NoContents)):
                call()


def test_sizes_that_depend_on_data_are_the_most_that_they_can_be() -> None:
    with HollowAllocations(KnownCalls(unbounded=9)):
        rows, mask = torch.empty(4, 2, requires_grad=True), torch.empty(4, dtype=torch.bool)
        rows[mask].sum().backward()
        assert rows.grad is not None and torch.nonzero(mask).shape == (4, 1)
        assert rows.repeat_interleave(mask.long(), 0).shape == (9, 2)


def test_terabytes_take_no_memory_and_meta_stays_on_meta() -> None:
    with HollowAllocations(KnownCalls()) as allocations:
        x = torch.empty(1 << 40, dtype=torch.float32)
        y = x * 2
        assert allocations.live == 2 * (1 << 42) and y.device.type == "cpu"
        before = allocations.live
        assert torch.empty(8, device="meta").add_(1).is_meta
        del x, y
        assert allocations.live == 0 < before
