"""What a forward assigns to buffers goes into the tensors that they were."""

import torch
from torch import nn

from pipecut.model.draws import Draws
from pipecut.model.opaque.assigned_buffers import buffers_of, keep_in_place
from pipecut.model.opaque.watching import drawing_once


class Pair(nn.Module):
    """Two buffers, of which each forward assigns the one to the other."""

    first: torch.Tensor
    second: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", torch.zeros(2))
        self.register_buffer("second", torch.ones(2))

    def forward(self) -> None:
        """Swap them."""
        self.first, self.second = self.second, self.first


def test_each_buffer_has_what_was_assigned_to_it_in_its_own_tensor() -> None:
    model = nn.Sequential(Pair())
    before = buffers_of(model)
    model[0].first = torch.full((2,), 3.0)
    model[0].second = torch.zeros(3)
    keep_in_place(model, before)
    assert model[0].first is before["0.first"] and model[0].first.tolist() == [3, 3]
    # Of another shape: who assigns it is told elsewhere.
    assert model[0].second is not before["0.second"]


def test_buffers_of_opaque_modules_stay_the_tensors_that_they_were() -> None:
    model = nn.ModuleDict({"pair": Pair()})
    before = buffers_of(model)
    with drawing_once(model, ["pair"], Draws(0)):
        model["pair"]()
    after = buffers_of(model)
    assert all(after[name] is before[name] for name in before)
    assert after["pair.first"].tolist() == [1, 1] and after["pair.second"].tolist() == [0, 0]
