"""A step begins with gradients on, without autocast and with the model's default dtype."""

from dataclasses import dataclass

import pytest
import torch

from pipecut.plan.schema import Plan
from pipecut.runtime.engine.surroundings import on_own_terms, own_terms
from pipecut.runtime.ranks.world import World
from tests.chain import CPU, chain_worlds
from tests.plans import made_plan


def test_surroundings_are_left_and_taken_up_again() -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        with own_terms(CPU, torch.float64):
            assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
            assert torch.get_default_dtype() == torch.float64
        assert not torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    assert torch.get_default_dtype() == torch.float32


def test_the_default_dtype_comes_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), own_terms(CPU, torch.float64):
        raise ZeroDivisionError
    assert torch.get_default_dtype() == torch.float32


@dataclass
class Face:
    plan: Plan
    world: World

    @on_own_terms
    def product(self, **batch: torch.Tensor) -> torch.Tensor:
        """Of a weight that needs a gradient and an input that backward keeps."""
        weight = torch.ones(3, requires_grad=True)
        return (weight * batch["x"]).sum()


def test_tensors_of_inference_mode_may_be_kept_for_backward() -> None:
    plan = made_plan(1)
    face = Face(plan, chain_worlds(plan)[0])
    with torch.inference_mode():
        face.product(x=torch.ones(3)).backward()
