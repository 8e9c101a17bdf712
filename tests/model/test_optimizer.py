"""The optimizers that a job file may name are those of torch, and keep what a plan counts."""

from typing import Any

import pytest
import torch
from torch import nn

from pipecut.errors import PlanError
from pipecut.model.optimizer import fusible, learning_rate, make_optimizer
from pipecut.plan.schema import KINDS, Optimizer

Named = list[tuple[str, nn.Parameter]]


def named(*shapes: tuple[int, ...]) -> Named:
    return [(f"p{index}", nn.Parameter(torch.ones(shape))) for index, shape in enumerate(shapes)]


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
    optimizer = make_optimizer(Optimizer(name=name), named((2, 2), (2,)), 0.1, 1e-5)
    assert type(optimizer) is kind and len(optimizer.param_groups[0]["params"]) == 2
    assert options.items() <= optimizer.param_groups[0].items()
    assert not optimizer.param_groups[0]["fused"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *((name, {}) for name in KINDS),
        ("adamw", {"amsgrad": True}),
        ("adam", {"amsgrad": True}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("momentum", {"momentum": 0.0}),
        ("rmsprop", {"centered": True}),
        ("rmsprop", {"centered": True, "momentum": 0.9}),
        ("nadam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    ],
)
def test_a_plan_counts_the_states_that_torch_keeps(name: str, arguments: dict[str, Any]) -> None:
    optimizer = Optimizer(name=name, arguments=arguments)
    shapes = [(3, 4)] if optimizer.kind.takes_matrices else [(3, 4), (5,), (2, 3, 4)]
    parameters = named(*shapes)
    steps = make_optimizer(optimizer, parameters)
    for _, parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.5)
    steps.step()
    for _, parameter in parameters:
        tensors = [s for s in steps.state[parameter].values() if isinstance(s, torch.Tensor)]
        kept = sum(s.numel() * s.element_size() for s in tensors if s.dim())
        size = parameter.numel() * parameter.element_size()
        assert optimizer.state_bytes(parameter.shape, size) == kept


def test_a_step_of_rows_is_that_of_the_whole_where_a_plan_says_so() -> None:
    """So that replicas may each step some rows; and nothing else is said to be elementwise."""
    for name, kind in KINDS.items():
        whole, upper, lower = named((4, 3))[0][1], named((2, 3))[0][1], named((2, 3))[0][1]
        for parts in ([("w", whole)], [("u", upper), ("l", lower)]):
            steps = make_optimizer(Optimizer(name=name), parts)
            for step in range(3):
                gradient = torch.arange(12.0).reshape(4, 3).sin() * (step + 1)
                for (_, part), rows in zip(parts, gradient.split(4 // len(parts)), strict=True):
                    part.grad = rows.clone()
                steps.step()
        assert torch.equal(whole, torch.cat([upper, lower])) == kind.elementwise, name


def test_no_decay_makes_a_second_group_by_fqn() -> None:
    parameters = [(name, nn.Parameter(torch.ones(2))) for name in ("a.bias", "b.weight", "norm.w")]
    keys = Optimizer(name="adamw", arguments={"weight_decay": 0.1}, no_decay=["*.bias", "*norm*"])
    decaying, others = make_optimizer(keys, parameters).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert len(decaying["params"]) == 1 and decaying["params"][0] is parameters[1][1]
    # Every rank has both groups, so that checkpoints of all ranks have the same.
    empty, both = make_optimizer(keys, parameters[:1]).param_groups
    assert not empty["params"] and len(both["params"]) == 1


def test_the_learning_rate_is_that_of_the_class_unless_it_is_given() -> None:
    assert learning_rate(Optimizer(name="adadelta")) == 1.0
    assert learning_rate(Optimizer(name="adamw")) == 1e-3
    assert learning_rate(Optimizer(name="adamw", arguments={"lr": 3e-4})) == 3e-4


def test_arguments_of_an_edited_plan_are_refused() -> None:
    for arguments in ({"lr": -1.0}, {"betas": [0.9]}, {"surprise": 1}):
        optimizer = Optimizer(name="adamw", arguments=arguments)
        with pytest.raises(PlanError, match=r"torch.optim.AdamW refuses"):
            make_optimizer(optimizer, named((2,)))


def test_cpu_parameters_are_not_fused() -> None:
    """A fused step rounds differently there."""
    assert not fusible(torch.ones(1)) and not fusible(torch.ones(1, device="meta"))
