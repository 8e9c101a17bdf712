"""A model that differs from the plan's is refused, with what differs: plans made by hand."""

import pytest
from torch import nn

from pipecut.errors import RunError
from pipecut.plan.schema import Plan
from pipecut.runtime.ranks.agree.same_model import refuse_other_parameters
from tests.plans import made_plan


def model(layers: int = 2, width: int = 4) -> nn.Module:
    """A model with the parameters of `made_plan`."""
    module = nn.Module()
    module.layers = nn.ModuleList(  # type: ignore[assignment]
        nn.Linear(4, width, bias=False, device="meta") for _ in range(layers)
    )
    return module


def refusal(plan: Plan, module: nn.Module) -> str:
    with pytest.raises(RunError, match="builds another model than was compiled") as raised:
        refuse_other_parameters(plan, module)
    return str(raised.value)


def test_the_planned_model_is_taken() -> None:
    refuse_other_parameters(made_plan(2), model())


def test_missing_and_new_parameters_are_named() -> None:
    assert "it has no 'layers.1.weight'" in refusal(made_plan(2), model(1))
    assert "it has 'layers.2.weight', which the plan has not" in refusal(made_plan(2), model(3))


def test_many_changes_are_counted() -> None:
    message = refusal(made_plan(5), model(5, width=3))
    assert message.count("in the plan") == 3 and "; and 2 more; compile again" in message


def test_another_shape_or_type_is_named() -> None:
    message = refusal(made_plan(1), model(1, width=3))
    assert "'layers.0.weight' is float32[3, 4], in the plan float32[4, 4]" in message
    halved = made_plan(1).model_copy(deep=True)
    object.__setattr__(halved.model, "precision", "bf16")
    assert "is bfloat16[4, 4], in the plan float32[4, 4]" in refusal(halved, model(1))


def test_what_is_trained_counts() -> None:
    frozen = model(1)
    frozen.requires_grad_(False)
    assert "is float32[4, 4], frozen, in the plan" in refusal(made_plan(1), frozen)


def test_ties_count() -> None:
    tied = model(2)
    tied.get_submodule("layers.1").weight = tied.get_parameter("layers.0.weight")  # type: ignore[assignment]
    message = refusal(made_plan(2), tied)
    assert "'layers.0.weight' is one with layers.1.weight, in the plan on its own" in message
