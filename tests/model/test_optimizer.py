"""The optimizers that a job file may name are those of torch, with their defaults."""

import pytest
import torch
from torch import nn

from pipecut.model.optimizer import fusible, make_optimizer


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sgd", torch.optim.SGD, {"lr": 0.1, "momentum": 0}),
        ("momentum", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        ("adam", torch.optim.Adam, {"lr": 0.1, "eps": 1e-5, "betas": (0.9, 0.999)}),
        ("adamw", torch.optim.AdamW, {"lr": 0.1, "eps": 1e-5, "weight_decay": 0.01}),
    ],
)
def test_a_name_is_an_optimizer_of_torch(
    name: str, kind: type[torch.optim.Optimizer], options: dict[str, object]
) -> None:
    parameters = nn.Linear(2, 2).parameters()
    optimizer = make_optimizer(name, parameters, 0.1, 1e-5)
    assert type(optimizer) is kind and len(optimizer.param_groups[0]["params"]) == 2
    assert options.items() <= optimizer.param_groups[0].items()
    assert not optimizer.param_groups[0]["fused"]


def test_cpu_parameters_are_not_fused() -> None:
    """A fused step rounds differently there."""
    assert not fusible(torch.ones(1)) and not fusible(torch.ones(1, device="meta"))
