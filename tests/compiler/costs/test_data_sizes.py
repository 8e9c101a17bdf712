"""Sizes that depend on data on fake tensors, which have no data."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipecut.compiler.costs.data_sizes import DataSized


def test_they_are_the_most_or_a_number_forward_and_backward() -> None:
    with FakeTensorMode() as mode:
        rows = torch.empty(6, 4, requires_grad=True)
        mask, counts = torch.empty(6, dtype=torch.bool), torch.empty(6, dtype=torch.int64)
        with DataSized(mode, unbounded=9):
            assert rows[mask].shape == (6, 4) and torch.unique(counts).shape == (6,)
            assert rows.repeat_interleave(counts, 0).shape == (9, 4)
            assert rows.masked_select(rows > 0).shape == (24,)
        with DataSized(mode, 2):
            chosen = rows[mask]
            put = torch.zeros_like(rows).index_put((mask,), chosen)
            (gradient,) = torch.autograd.grad(put, [rows], torch.empty_like(put))
    assert chosen.shape == (2, 4) and gradient.shape == (6, 4)
    assert mode.shape_env is None
