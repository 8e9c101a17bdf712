"""Buckets hold neighbours of one type, in order, up to a size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipecut.runtime.gradients import buckets as module
from pipecut.runtime.gradients.buckets import buckets

DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
TENSORS = st.lists(st.builds(lambda n, t: torch.empty(n, dtype=t), st.integers(0, 9), DTYPES))


def size(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@given(TENSORS)
def test_every_tensor_is_in_one_bucket_in_order(tensors: list[torch.Tensor]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BUCKET", 24)
        filled = buckets(tensors, lambda tensor: tensor)
    assert [id(t) for bucket in filled for t in bucket] == [id(t) for t in tensors]
    for bucket in filled:
        assert len({tensor.dtype for tensor in bucket}) == 1
        assert size(bucket) <= 24 or len(bucket) == 1
    for first, second in zip(filled, filled[1:], strict=False):
        together = first[0].dtype == second[0].dtype and size([*first, second[0]]) <= 24
        assert not together, "a bucket ends only where the next tensor does not fit"


def test_items_are_bucketed_by_the_tensor_they_stand_for() -> None:
    tensors = {"a": torch.empty(2), "b": torch.empty(2), "c": torch.empty(2).double()}
    assert buckets(list(tensors), tensors.__getitem__) == [["a", "b"], ["c"]]
