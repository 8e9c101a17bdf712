"""Masters keep what half precision would round away, and take gradients in full."""

import pytest
import torch
from torch import nn

from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.parameters import master_for, parameters_of
from tests.parameters import rank_parameter


def test_steps_smaller_than_half_precision_sees_add_up() -> None:
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    masters = Masters([rank_parameter(weight)])
    master = masters.master_of(weight)
    optimizer = torch.optim.SGD([master], lr=1e-3)
    for _ in range(20):
        masters.refresh()
        for _ in range(2):
            weight.sum().backward()
        assert weight.grad is None and torch.equal(master.grad, torch.full((4,), 2.0))
        optimizer.step()
        optimizer.zero_grad()
    masters.refresh()
    # 0.002 is less than half the distance between bfloat16 numbers below 1.
    assert torch.allclose(master, torch.full((4,), 0.96)) and torch.equal(weight, master.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_a_parameter_in_full_precision_is_its_own_master(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.ones(2, dtype=dtype))
    assert master_for(weight) is weight
    masters = Masters([rank_parameter(weight)])
    (weight.abs() * 2).sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad.abs(), torch.full((2,), 2.0))
    assert masters.master_of(weight) is weight and not masters.rounded


def test_a_frozen_half_precision_parameter_has_no_master() -> None:
    weight = nn.Parameter(torch.ones(2, dtype=torch.float16), requires_grad=False)
    assert master_for(weight) is weight


def test_a_master_without_values_has_the_shape_and_type() -> None:
    master = master_for(nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16)), filled=False)
    assert master.shape == (2, 3) and master.dtype == torch.float32


def test_gradients_of_stages_and_masters_are_dropped_together() -> None:
    module = nn.Linear(2, 2).bfloat16()
    masters = Masters(parameters_of(module))
    module(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
    assert all(p.master.grad is not None for p in masters.parameters.values())
    masters.drop_gradients()
    assert all(p.master.grad is None and p.model.grad is None for p in masters.parameters.values())


def test_a_stage_tensor_that_somebody_wrote_is_found() -> None:
    weight, bias = (nn.Parameter(torch.ones(2, dtype=torch.float16)) for _ in range(2))
    parameters = [rank_parameter(weight, "weight"), rank_parameter(bias, "bias")]
    masters = Masters(parameters)
    assert not masters.written()
    masters.refresh()
    with torch.no_grad():
        bias.mul_(2)
    assert masters.written() == parameters[1:]
    masters.refresh()
    assert not masters.written() and torch.equal(bias, torch.ones(2, dtype=torch.float16))
