"""A stage keeps what backward needs, and returns the gradients of what it received."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from pipecut.errors import RunError
from pipecut.plan.schema import OpaqueModule, OpaqueResult, StageTensor
from pipecut.runtime.engine.stage import RunningStage
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.parameters import parameters_of
from tests.chain import Multiply, chain_modules
from tests.plans import made_plan, made_stage


def running(
    index: int, count: int = 3, module: nn.Module | None = None, **options: Any
) -> RunningStage:
    """A stage of a chain of three."""
    fields = {key: options.pop(key) for key in ("recompute", "buffers", "opaque") if key in options}
    plan = made_plan(count, stages=[made_stage(i, count, **fields) for i in range(count)])
    module = module or chain_modules(plan)[index]
    stage = RunningStage(
        plan, plan.stages[index], module, Masters(parameters_of(module)), **options
    )
    stage.begin(1, 0, [{"batch": 1}] * 3)
    return stage


@pytest.mark.parametrize("recompute", [False, True])
def test_backward_returns_what_autograd_does(recompute: bool) -> None:
    stage = running(1, recompute=recompute)
    x, gradient = torch.rand(2, 4), torch.rand(2, 4)
    (result,) = stage.forward(0, [x.clone()], [], 1.0, grad=True)
    (of_input,) = stage.backward(0, [gradient])
    reference = x.clone().requires_grad_()
    plain = Multiply(1, last=False)
    plain.load_state_dict(stage.module.state_dict())
    (expected,) = plain(reference)
    expected.backward(gradient)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(of_input, reference.grad)
    torch.testing.assert_close(stage.module.layers["1"].weight.grad, plain.layers["1"].weight.grad)
    assert not stage.live


def test_a_stage_that_recomputes_keeps_its_inputs_alone() -> None:
    stage = running(1, recompute=True)
    (result,) = stage.forward(0, [torch.rand(2, 4)], [], 1.0, grad=True)
    assert not result.requires_grad and stage.live[0].roots is None


def test_microbatches_may_go_backward_in_any_order() -> None:
    stage = running(1)
    for microbatch in range(3):
        stage.forward(microbatch, [torch.full((1, 4), microbatch + 1.0)], [], 1.0, grad=True)
    gradients = {m: stage.backward(m, [torch.ones(1, 4)])[0] for m in (2, 0, 1)}
    assert len({float(gradient.sum()) for gradient in gradients.values()}) == 3 and not stage.live


def test_the_loss_is_weighted_for_backward_alone() -> None:
    stage = running(2)
    x = torch.rand(2, 4)
    (loss,) = stage.forward(0, [x.clone()], [], 0.25, grad=True)
    (weighted,) = stage.backward(0, [])
    stage.forward(0, [x.clone()], [], 1.0, grad=True)
    (unweighted,) = stage.backward(0, [])
    torch.testing.assert_close(4 * weighted, unweighted)
    assert torch.equal(loss, stage.module(x)[0])


class Sometimes(nn.Module):
    """Uses what it receives where that is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.moe = nn.Parameter(torch.ones(2, 4)), nn.Identity()

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.weight * (self.moe(x) if x.sum() > 0 else 1.0)]


def test_a_tensor_without_influence_gets_a_gradient_of_zeros() -> None:
    stage = running(1, module=Sometimes())
    stage.forward(0, [-torch.rand(2, 4)], [], 1.0, grad=True)
    assert torch.equal(stage.backward(0, [torch.ones(2, 4)])[0], torch.zeros(2, 4))
    stage.end()


@pytest.mark.parametrize(("signs", "refused"), [((-1, 1), False), ((-1, -1), True), ((), False)])
def test_what_an_opaque_module_uses_for_no_data_is_refused(
    signs: tuple[int, ...], refused: bool
) -> None:
    rows = OpaqueModule(name="moe", results=[[OpaqueResult(shape=[2, 4], dtype="float32")]])
    stage = running(1, module=Sometimes(), opaque=[rows])
    for microbatch, sign in enumerate(signs):
        stage.forward(microbatch, [sign * torch.rand(2, 4)], [], 1.0, grad=True)
        stage.backward(microbatch, [torch.ones(2, 4)])
    with pytest.raises(RunError, match="no microbatch .* gradient") if refused else nullcontext():
        stage.end()
    stage.begin(2, 0, [{"batch": 1}] * 3)
    stage.end()


def test_a_result_that_needs_a_gradient_where_the_plan_has_none_is_refused() -> None:
    stage = running(0)
    stage.sent_need_grad = [False]
    with pytest.raises(RunError, match="hidden_0 needs no gradient, but it does; compile again"):
        stage.forward(0, [], [torch.rand(2, 4)], 1.0, grad=True)


def test_a_loss_that_needs_no_gradient_is_refused() -> None:
    stage = running(2)
    stage.module.requires_grad_(False)
    stage.received_need_grad = [False]
    with pytest.raises(RunError, match="returns a loss that needs no gradient"):
        stage.forward(0, [torch.rand(2, 4)], [], 1.0, grad=True)


def test_a_split_backward_makes_gradients_of_weights_later_and_says_so() -> None:
    ready: list[nn.Parameter] = []
    stage = running(1, split_backward=True, gradient_ready=ready.append)
    weight = stage.module.layers["1"].weight
    stage.forward(0, [torch.rand(2, 4)], [], 1.0, grad=True)
    stage.backward(0, [torch.ones(2, 4)])
    assert weight.grad is None and not ready
    stage.weights(0)
    assert weight.grad is not None and ready == [weight] and not stage.aside


def test_gradients_that_backward_made_are_ready_before_those_that_come_later() -> None:
    class Shifted(Multiply):
        def __init__(self) -> None:
            super().__init__(1, last=False)
            self.shift = nn.Parameter(torch.zeros(4))

        def forward(self, x: torch.Tensor, outputs: Any = None) -> list[torch.Tensor]:
            return [super().forward(x)[0] + self.shift]

    ready: list[nn.Parameter] = []
    module = Shifted()
    stage = running(1, module=module, split_backward=True, gradient_ready=ready.append)
    stage.forward(0, [torch.rand(2, 4)], [], 1.0, grad=True)
    stage.backward(0, [torch.ones(2, 4)])
    assert module.shift.grad is not None
    stage.weights(0)
    assert ready == [module.shift, module.layers["1"].weight]


def test_half_precision_gradients_reach_the_master_either_way() -> None:
    for split_backward in (False, True):
        module = Multiply(1, last=False).bfloat16()
        stage = running(1, module=module, split_backward=split_backward)
        stage.forward(0, [torch.rand(2, 4).bfloat16()], [], 1.0, grad=True)
        stage.backward(0, [torch.ones(2, 4).bfloat16()])
        if split_backward:
            stage.weights(0)
        weight = module.layers["1"].weight
        assert weight.grad is None and stage.masters.master_of(weight).grad.dtype == torch.float32


def test_evaluation_keeps_nothing() -> None:
    stage = running(1)
    stage.forward(0, [torch.rand(2, 4)], [], 1.0, grad=False)
    assert not stage.live and stage.module.layers["1"].weight.grad is None


def test_buffers_that_a_forward_writes_are_listed() -> None:
    class Counting(Multiply):
        def __init__(self) -> None:
            super().__init__(1, last=False)
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("table", torch.ones(3))

    module = Counting()
    buffers = [
        StageTensor(names=["count"], shape=[], dtype="float32", written=True),
        StageTensor(names=["table"], shape=[3], dtype="float32"),
    ]
    (written,) = running(1, module=module, buffers=buffers).written()
    assert written is module.count
