"""Masters keep what half precision would round away; a loss scale gives way when gradients overflow, and grows back."""

import torch
from torch import nn

from pipecut.runtime.gradients.masters import LossScale, Masters


def test_steps_smaller_than_half_precision_sees_add_up() -> None:
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    masters = Masters([weight])
    (master,) = (masters.of[id(weight)],)
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


def test_a_parameter_in_full_precision_is_its_own_master() -> None:
    weight = nn.Parameter(torch.ones(2))
    assert Masters([weight]).of[id(weight)] is weight


def test_a_step_that_overflows_is_left_out_and_the_scale_halves() -> None:
    parameter, scale = nn.Parameter(torch.ones(2)), LossScale("fp16")
    first = scale.scale
    parameter.grad = torch.tensor([1.0, float("inf")])
    assert bool(scale.overflows([parameter]))
    scale.apply([parameter], overflowed=True)
    assert parameter.grad is None and scale.scale == first / 2
    parameter.grad = torch.full((2,), scale.scale)
    assert not bool(scale.overflows([parameter]))
    scale.apply([parameter], overflowed=False)
    assert torch.equal(parameter.grad, torch.ones(2))
    for _ in range(LossScale.INTERVAL - 1):
        scale.apply([], overflowed=False)
    assert scale.scale == first
