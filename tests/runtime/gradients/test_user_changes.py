"""What a user did to parameters, where stages cannot follow it, is refused with a remedy."""

import pytest
import torch
from torch import nn

from pipecut.errors import RunError
from pipecut.plan.schema import StageTensor
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.user_changes import check_unchanged, load_value
from tests.parameters import rank_parameter


def half() -> nn.Parameter:
    return nn.Parameter(torch.ones(2, dtype=torch.bfloat16))


def test_a_parameter_as_it_was_compiled_passes() -> None:
    parameters = [rank_parameter(half()), rank_parameter(nn.Parameter(torch.ones(2)))]
    check_unchanged(parameters, Masters(parameters).written())


@pytest.mark.parametrize("trainable", [True, False])
def test_a_switch_of_requires_grad_is_refused(trainable: bool) -> None:
    parameter = rank_parameter(nn.Parameter(torch.ones(2), requires_grad=trainable))
    parameter.model.requires_grad_(not trainable)
    now = "takes no gradient any more" if trainable else "takes a gradient now"
    with pytest.raises(RunError, match=f"parameter 'weight' {now}.*factory and compile again"):
        check_unchanged([parameter], [])


def test_a_write_past_the_master_is_refused() -> None:
    parameter = rank_parameter(half())
    with pytest.raises(RunError, match="written in the stage, where its torch.float32 master"):
        check_unchanged([parameter], [parameter])


@pytest.mark.parametrize("accumulated", [True, False])
def test_a_hook_that_is_never_called_is_refused(accumulated: bool) -> None:
    parameter, plain = rank_parameter(half()), rank_parameter(nn.Parameter(torch.ones(2)))
    for stepped in (parameter.stepped, plain.stepped):
        hook = stepped.register_post_accumulate_grad_hook if accumulated else stepped.register_hook
        hook(lambda tensor: None)  # type: ignore[no-untyped-call]
    check_unchanged([plain], [])
    with pytest.raises(RunError, match="hook that is never called.*between pipe.step"):
        check_unchanged([parameter], [])


def tensor(*names: str, shape: tuple[int, ...] = (4, 2)) -> StageTensor:
    return StageTensor(names=list(names), shape=list(shape), dtype="float32")


def test_a_value_is_found_under_any_name() -> None:
    target, value = torch.zeros(4, 2), torch.rand(4, 2)
    load_value({"head.weight": value}, tensor("embedding.weight", "head.weight"), target, None)
    assert torch.equal(target, value)


def test_rows_of_a_value_are_taken() -> None:
    target, value = torch.zeros(2, 2), torch.rand(4, 2)
    load_value({"weight": value}, tensor("weight"), target, (1, 3))
    assert torch.equal(target, value[1:3])


def test_a_missing_name_and_another_shape_are_refused() -> None:
    with pytest.raises(RunError, match="load_state_dict: 'weight' of this rank is missing"):
        load_value({}, tensor("weight"), torch.zeros(4, 2), None)
    with pytest.raises(RunError, match=r"'weight' is \[2, 2\], the plan has \[4, 2\]"):
        load_value({"weight": torch.zeros(2, 2)}, tensor("weight"), torch.zeros(4, 2), None)
