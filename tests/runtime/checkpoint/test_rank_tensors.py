"""A rank's tensors are collected by name, with optimizer states, and put back all or nothing."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from pipecut.errors import CheckpointError
from pipecut.runtime.checkpoint.manifest import Group
from pipecut.runtime.checkpoint.put_back import put_back
from pipecut.runtime.checkpoint.rank_tensors import collect, groups_of, not_finite
from pipecut.runtime.gradients.parameters import RankParameter
from tests.parameters import rank_parameter


def made(kind: type[torch.optim.Optimizer], **options: Any) -> tuple[list[RankParameter], Any]:
    """Two parameters, the second with some rows, and an optimizer that has done a step."""
    parameters = [
        rank_parameter(nn.Parameter(torch.ones(3)), "a"),
        rank_parameter(nn.Parameter(torch.ones(2, 2)), "b", rows=(4, 6)),
    ]
    optimizer = kind([parameter.stepped for parameter in parameters], lr=0.1, **options)  # type: ignore[call-arg]
    for parameter in parameters:
        parameter.stepped.grad = torch.ones_like(parameter.stepped)
    optimizer.step()
    return parameters, optimizer


def test_parameters_buffers_and_states_are_collected() -> None:
    parameters, optimizer = made(torch.optim.AdamW)
    collected = collect(parameters, {"mean": torch.zeros(2)}, optimizer)
    states = {f"optimizer/{s}/{p}" for s in ("step", "exp_avg", "exp_avg_sq") for p in "ab"}
    assert set(collected.tensors) == {"parameter/a", "parameter/b", "buffer/mean", *states}
    of_b = ("parameter/b", "optimizer/exp_avg/b", "optimizer/exp_avg_sq/b")
    assert collected.rows == dict.fromkeys(of_b, (4, 6)), "a count of steps is whole"
    assert not any(tensor.requires_grad for tensor in collected.tensors.values())


def test_a_training_without_an_optimizer_has_parameters_alone() -> None:
    parameters, _ = made(torch.optim.SGD)
    assert set(collect(parameters, {}, None).tensors) == {"parameter/a", "parameter/b"}
    assert groups_of(parameters, None) == []


def test_a_state_that_is_no_tensor_is_refused() -> None:
    parameters, optimizer = made(torch.optim.SGD)
    optimizer.state[parameters[0].stepped] = {"nothing": None, "history": [1, 2]}
    with pytest.raises(CheckpointError, match="keeps history of a as list; only tensors"):
        collect(parameters, {}, optimizer)


def test_a_state_of_other_rows_than_its_parameter_is_refused() -> None:
    parameters, optimizer = made(torch.optim.SGD)
    optimizer.state[parameters[1].stepped] = {"norms": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"norms of b as \[1\] for \[2, 2\].*shard_optimizer"):
        collect(parameters, {}, optimizer)


def test_groups_have_plain_options_and_this_ranks_names() -> None:
    parameters, _ = made(torch.optim.SGD)
    foreign = nn.Parameter(torch.ones(1))
    groups = [
        {"params": [parameters[1].stepped], "weight_decay": 0.1},
        {"params": [parameters[0].stepped, foreign]},
    ]
    first, second = groups_of(parameters, torch.optim.AdamW(groups, lr=torch.tensor(0.5)))
    assert (first.names, second.names) == (["b"], ["a"])
    assert first.options["weight_decay"] == 0.1 and first.options["lr"] == 0.5
    assert "params" not in first.options


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("parameter/w", 1.0, False),
        ("parameter/w", math.nan, True),
        ("parameter/w", math.inf, True),
        ("optimizer/exp_avg/w", -math.inf, True),
        ("buffer/mask", -math.inf, False),
        ("buffer/mean", math.nan, True),
    ],
)
def test_values_that_are_no_finite_numbers_are_found(name: str, value: float, wrong: bool) -> None:
    tensors = {"fine": torch.ones(2), "count": torch.tensor(3), name: torch.tensor([1.0, value])}
    assert not_finite(tensors) == (name if wrong else None)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.AdamW, {"betas": (0.8, 0.9)}),
    ],
)
def test_what_was_collected_is_put_back(
    kind: type[torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    saved, optimizer = made(kind, **options)
    buffers = {"mean": torch.rand(2)}
    values = {n: t.clone() for n, t in collect(saved, buffers, optimizer).tensors.items()}
    groups = groups_of(saved, optimizer)
    fresh, other = made(kind, **options)
    other.state.clear()
    for parameter in fresh:
        parameter.stepped.data.zero_()
    restored = {"mean": torch.zeros(2)}
    assert put_back("here", values, fresh, restored, other, groups) == []
    again = collect(fresh, restored, other).tensors
    assert all(torch.equal(again[name], value) for name, value in values.items())
    for a, b in ((saved, optimizer), (fresh, other)):
        for parameter in a:
            parameter.stepped.grad = torch.full_like(parameter.stepped, 0.5)
        b.step()
    for a, b in zip(saved, fresh, strict=True):
        assert torch.equal(a.stepped, b.stepped), "both go on alike"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameter/a": torch.ones(4)}, r"parameter a is \[3\], in the checkpoint \[4\]"),
        (
            {"parameter/a": torch.ones(3, dtype=torch.int8)},
            "torch.float32, in the checkpoint torch.int8",
        ),
        ({"parameter/a": torch.full((3,), math.nan)}, "parameter a has values that are no finite"),
        ({"optimizer/step/a": torch.tensor(1)}, "step of a is torch.int64.*floating-point"),
        (
            {"optimizer/exp_avg/a": torch.ones(1)},
            r"exp_avg of a is torch.float32\[1\].*shape \[3\]",
        ),
        ({"optimizer/exp_avg_sq/a": None}, "the optimizer's exp_avg_sq of a is missing"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_changed(
    change: dict[str, torch.Tensor | None], message: str
) -> None:
    parameters, optimizer = made(torch.optim.AdamW)
    values: dict[str, Any] = dict(collect(parameters, {}, optimizer).tensors)
    values = {n: torch.zeros_like(t) for n, t in values.items()} | change
    values = {name: value for name, value in values.items() if value is not None}
    before = {p.name: p.stepped.detach().clone() for p in parameters}
    with pytest.raises(CheckpointError, match=f"^here: .*{message}"):
        put_back("here", values, parameters, {}, optimizer, groups_of(parameters, optimizer))
    assert all(torch.equal(p.stepped, before[p.name]) for p in parameters)


def test_any_floating_type_stands_for_another() -> None:
    parameters = [rank_parameter(nn.Parameter(torch.zeros(2)), "a")]
    put_back("here", {"parameter/a": torch.ones(2).bfloat16()}, parameters, {}, None, [])
    assert torch.equal(parameters[0].stepped.detach(), torch.ones(2))


def changed(**options: Any) -> list[Group]:
    """The groups of an AdamW, with these options in the checkpoint."""
    parameters, optimizer = made(torch.optim.AdamW)
    return [Group({**g.options, **options}, g.names) for g in groups_of(parameters, optimizer)]


def restored(groups: list[Group]) -> tuple[list[str], Any]:
    parameters, optimizer = made(torch.optim.AdamW)
    values = collect(parameters, {}, optimizer).tensors
    return put_back("here", values, parameters, {}, optimizer, groups), optimizer


def test_options_of_the_checkpoint_go_on_and_differences_are_reported() -> None:
    notes, optimizer = restored(changed(weight_decay=0.5, lr=0.7, betas=[0.5, 0.6], fused=True))
    (group,) = optimizer.param_groups
    assert (group["weight_decay"], group["lr"], group["betas"]) == (0.5, 0.7, (0.5, 0.6))
    assert not group["fused"], "how a step is done is a matter of the device"
    assert notes == [
        "the optimizer's betas is (0.5, 0.6), as in the checkpoint, not (0.9, 0.999)",
        "the optimizer's weight_decay is 0.5, as in the checkpoint, not 0.01",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amsgrad": True}, "amsgrad is False, in the checkpoint True; make it as it was made"),
        ({"weight_decay": "much"}, "weight_decay is 0.01, in the checkpoint much"),
        ({"weight_decay": math.inf}, "weight_decay is 0.01, in the checkpoint inf"),
        ({"betas": [0.9]}, r"betas is \(0.9, 0.999\), in the checkpoint \(0.9,\)"),
        ({"betas": [0.9, 9.0]}, "AdamW refuses the options it has: Invalid beta"),
    ],
)
def test_options_that_no_optimizer_takes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        restored(changed(**options))


def test_a_parameter_must_be_in_the_group_it_was_in() -> None:
    (group,) = changed()
    with pytest.raises(CheckpointError, match="b is in group 0 .*, in the checkpoint in none"):
        restored([Group(group.options, ["a"])])
