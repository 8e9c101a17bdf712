"""Kept parameters get the values of the whole model, whatever the others are made to forget."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipecut.model.building.initial_parameters import initial_parameters
from pipecut.model.building.on_meta import build_on_meta
from pipecut.model.building.reclaimable_storage import ReclaimableStorage
from tests.models import core as models


def rotated() -> nn.Module:
    """Initialisers whose draws depend on values drawn before: rejection, orthogonalisation."""
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
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16), 3, enable_nested_tensor=False
    )


def halved() -> nn.Module:
    """A model cast after it was initialised."""
    return models.mlp().to(torch.bfloat16)


def truncated() -> nn.Module:
    """Draws are rejected by their values."""
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 20))
    for layer in model:
        assert isinstance(layer, nn.Linear)
        nn.init.trunc_normal_(layer.weight, std=1.0, a=-1.5, b=1.5)
    return model


def odd() -> nn.Module:
    """Odd sizes, a parameter drawn one by one, seeds and states read in between, a NumPy view."""
    model = nn.Sequential(
        nn.Linear(3, 5), nn.Linear(5, 37), nn.Embedding(9, 7, padding_idx=2), nn.Linear(7, 5)
    )
    state = torch.get_rng_state()
    model.append(nn.Linear(21, 3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model.append(nn.Linear(11, 13, dtype=torch.float64))
    model.append(nn.Linear(64, 33).to(torch.bfloat16))
    model.append(nn.Linear(4, 64, dtype=torch.bfloat16))
    torch.set_rng_state(state)
    model.append(nn.Linear(6, 7))
    model.register_parameter("scale", nn.Parameter(torch.randn(40) * 3))
    model.register_parameter("last", nn.Parameter(torch.rand(19)))
    return model


def looked_at() -> nn.Module:
    """A parameter that depends on what another one holds, as Python sees it."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    first, second = model
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    if not first.weight.is_meta:
        nn.init.constant_(second.bias, float(first.weight.detach().numpy().max()))
        if first.weight.abs().max() > 0.2:
            nn.init.normal_(first.weight)
    return model


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """No managed storage stays filled beyond the operator that uses it."""
    monkeypatch.setattr(ReclaimableStorage.__init__, "__defaults__", (True, 0))


EVERY = [
    rotated,
    copied,
    halved,
    truncated,
    odd,
    looked_at,
    models.gpt2,
    models.t5,
    models.parametrized,
    models.resnet,
]


@pytest.mark.parametrize("build", EVERY)
def test_every_third_of_the_parameters_is_as_in_the_whole_model(
    build: Callable[[], nn.Module], forgetful: None
) -> None:
    torch.manual_seed(3)
    expected = {
        name: parameter.detach()
        for name, parameter in build().named_parameters(remove_duplicate=False)
    }
    for part in range(3):
        wanted = set(list(expected)[part::3])
        values = initial_parameters(build, 3, wanted).values
        assert set(values) == wanted
        assert all(torch.equal(values[name], expected[name]) for name in wanted)


def test_what_a_parameter_is_computed_from_is_held_too(forgetful: None) -> None:
    torch.manual_seed(5)
    expected = copied().state_dict()
    built = initial_parameters(copied, 5, {"layers.2.linear1.weight"})
    assert torch.equal(built.values["layers.2.linear1.weight"], expected["layers.2.linear1.weight"])
    assert built.extra == 1


def test_managed_parameters_hold_no_more_than_the_budget() -> None:
    storage = ReclaimableStorage(budget=3 * 4096)
    with storage:
        tensors = [torch.ones(1024) for _ in range(8)]
        for number, tensor in enumerate(tensors):
            storage.manage(tensor, number)
        assert sum(t.untyped_storage().nbytes() for t in tensors) <= 3 * 4096
        total = tensors[0] + tensors[1]
    assert storage.depends_on_lost(total) == {0, 1}


@pytest.mark.parametrize("build", [models.random_features, models.parametrized])
def test_buffers_have_the_values_of_the_seed(
    build: Callable[[], nn.Module], forgetful: None
) -> None:
    torch.manual_seed(7)
    expected = dict(build().named_buffers())
    model = build_on_meta(build, 7)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert all(torch.equal(buffer, expected[name]) for name, buffer in model.named_buffers())
