"""Clipping is torch's over all parameters of a rank; sharded ones by their rows, tied ones once."""

import pytest
import torch
from torch import nn

from pipecut.runtime.gradients.clip import clip_grad_norm
from tests.chain import chain_worlds
from tests.parameters import rank_parameter
from tests.plans import made_plan


def parameters_with_gradients() -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.ones(n)) for n in (3, 5)]
    for parameter in parameters:
        parameter.grad = torch.arange(float(len(parameter)))
    return parameters


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_one_rank_clips_as_torch_does(max_norm: float) -> None:
    ours, theirs = parameters_with_gradients(), parameters_with_gradients()
    (world,) = chain_worlds(made_plan(1))
    norm = clip_grad_norm(world, [rank_parameter(p) for p in ours], max_norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.testing.assert_close(norm, expected)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_rank_without_gradients_has_a_norm_of_zero() -> None:
    (world,) = chain_worlds(made_plan(1))
    parameter = rank_parameter(nn.Parameter(torch.ones(2)))
    assert float(clip_grad_norm(world, [parameter], 1.0)) == 0.0 and parameter.stepped.grad is None


def test_what_another_rank_owns_is_clipped_and_not_counted() -> None:
    (world,) = chain_worlds(made_plan(1))
    weight, shared = parameters_with_gradients()
    tied = rank_parameter(shared, "tied", tied_ranks=(-1, 0))
    norm = clip_grad_norm(world, [rank_parameter(weight), tied], 1.0)
    assert float(norm) == pytest.approx(5**0.5)
    assert shared.grad is not None and float(shared.grad[4]) == pytest.approx(4 / 5**0.5, rel=1e-4)


def test_replicas_count_a_shared_parameter_once_and_rows_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each of two replicas sees half of what both have, so that their sum counts it once.
    squares: list[float] = []
    monkeypatch.setattr(
        "torch.distributed.all_reduce", lambda square: squares.append(float(square))
    )
    world = chain_worlds(made_plan(1, replicas=2))[0]
    whole, rows = parameters_with_gradients()
    clip_grad_norm(world, [rank_parameter(whole), rank_parameter(rows, rows=(0, 5))], 100.0)
    assert squares == [pytest.approx((1 + 4) / 2 + (1 + 4 + 9 + 16))]
