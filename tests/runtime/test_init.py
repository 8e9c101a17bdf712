"""Kept parameters get the values of the whole model, whatever the others are made to forget."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipecut.runtime.init import build_on_meta, initial_parameters
from pipecut.runtime.lent_storage import LentStorage
from tests import models


def rotated() -> nn.Module:
    """Initialisers whose draws depend on the values drawn before: rejection, orthogonalisation, a draw on the side."""
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(4)])
    for layer in model:
        assert isinstance(layer, nn.Linear)
        nn.init.orthogonal_(layer.weight)
        nn.init.trunc_normal_(layer.bias, std=2.0, a=-0.5, b=0.5)
        with torch.no_grad():
            layer.bias += torch.rand(8, device=layer.bias.device)
    return model


def copied() -> nn.Module:
    """Layers that are deep copies of one."""
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 3, enable_nested_tensor=False)


def halved() -> nn.Module:
    """A model cast after it was initialised."""
    return models.mlp().to(torch.bfloat16)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lent storage stays filled beyond the operator that uses it."""
    monkeypatch.setattr(LentStorage.__init__, "__defaults__", (0,))


@pytest.mark.parametrize("build", [rotated, copied, halved, models.gpt2, models.t5, models.parametrized, models.resnet])
def test_every_third_of_the_parameters_is_as_in_the_whole_model(build: Callable[[], nn.Module], forgetful: None) -> None:
    torch.manual_seed(3)
    expected = {name: parameter.detach() for name, parameter in build().named_parameters(remove_duplicate=False)}
    for part in range(3):
        wanted = set(list(expected)[part::3])
        found, _ = initial_parameters(build, 3, wanted)
        assert set(found) == wanted
        assert all(torch.equal(found[name], expected[name]) for name in wanted)


def test_what_a_parameter_is_computed_from_is_held_too(forgetful: None) -> None:
    torch.manual_seed(5)
    expected = copied().state_dict()
    found, extra = initial_parameters(copied, 5, {"layers.2.linear1.weight"})
    assert torch.equal(found["layers.2.linear1.weight"], expected["layers.2.linear1.weight"])
    assert extra == 1


def test_lent_parameters_hold_no_more_than_the_budget() -> None:
    lent = LentStorage(budget=3 * 4096)
    with lent:
        tensors = [torch.ones(1024) for _ in range(8)]
        for number, tensor in enumerate(tensors):
            lent.lend(tensor, number)
        assert sum(t.untyped_storage().nbytes() for t in tensors) <= 3 * 4096
        total = tensors[0] + tensors[1]
    assert lent.unknown_in(total) == {0, 1}


@pytest.mark.parametrize("build", [models.random_features, models.parametrized])
def test_buffers_have_the_values_of_the_seed(build: Callable[[], nn.Module], forgetful: None) -> None:
    torch.manual_seed(7)
    expected = dict(build().named_buffers())
    model = build_on_meta(build, 7)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert all(torch.equal(buffer, expected[name]) for name, buffer in model.named_buffers())
