"""A loss scale gives way when gradients overflow, and grows back."""

import pytest
import torch
from torch import nn

from pipecut.runtime.gradients.loss_scale import LossScale


def parameter_with(*gradient: float) -> nn.Parameter:
    parameter = nn.Parameter(torch.ones(len(gradient)))
    parameter.grad = torch.tensor(gradient)
    return parameter


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_step_that_overflows_is_left_out_and_the_scale_halves(bad: float) -> None:
    fine, scale = parameter_with(1.0), LossScale("fp16")
    overflowing = parameter_with(1.0, bad)
    assert bool(scale.overflows([fine, overflowing]))
    scale.apply([fine, overflowing], overflowed=True)
    assert fine.grad is None and overflowing.grad is None
    assert scale.scale == LossScale.FIRST / 2


def test_gradients_are_divided_by_the_scale() -> None:
    scale = LossScale("fp16")
    parameter = parameter_with(scale.scale, 2 * scale.scale)
    assert not bool(scale.overflows([parameter]))
    scale.apply([parameter, nn.Parameter(torch.ones(1))], overflowed=False)
    assert parameter.grad is not None and parameter.grad.tolist() == [1.0, 2.0]


def test_the_scale_doubles_after_two_thousand_steps_in_a_row() -> None:
    scale = LossScale("fp16")
    for _ in range(LossScale.INTERVAL - 1):
        scale.apply([], overflowed=False)
    scale.apply([], overflowed=True)
    for _ in range(LossScale.INTERVAL - 1):
        scale.apply([], overflowed=False)
    assert scale.scale == LossScale.FIRST / 2
    scale.apply([], overflowed=False)
    assert scale.scale == LossScale.FIRST


def test_a_rank_without_gradients_has_no_overflow() -> None:
    assert not bool(LossScale("fp16").overflows([nn.Parameter(torch.ones(1))]))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_are_not_scaled(precision: str) -> None:
    scale = LossScale(precision)
    assert not scale.used and scale.scale == 1.0


def test_a_checkpoint_has_the_scale_and_its_steps() -> None:
    scale, other = LossScale("fp16"), LossScale("fp16")
    scale.apply([], overflowed=True)
    scale.apply([], overflowed=False)
    other.load_state_dict(scale.state_dict())
    assert (other.scale, other.good) == (scale.scale, 1)
