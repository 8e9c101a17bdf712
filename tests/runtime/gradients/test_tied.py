"""A tied parameter's gradient is summed over its ranks in autograd's order, the same on each."""

from typing import Any

import pytest
import torch
from torch import nn

from pipecut.runtime.gradients.tied import TiedGradients
from tests.chain import chain_worlds
from tests.parameters import rank_parameter
from tests.plans import made_plan
from tests.process_groups import in_group

# Summed from the last to the first, and not otherwise, 1e8 goes before 1 is added.
GRADIENTS = (1.0, -1e8, 1e8)


def summed(group: Any, gradients: tuple[float | None, ...]) -> torch.Tensor | None:
    """What a rank's parameter has after its side of the sum."""
    count = group.size()
    world = chain_worlds(made_plan(count))[group.rank()]
    ranks = tuple(range(count))
    world.tied = {ranks: group}
    parameter = rank_parameter(nn.Parameter(torch.zeros(2)), tied_ranks=ranks)
    own = gradients[group.rank()]
    parameter.master.grad = None if own is None else torch.full((2,), own)
    TiedGradients(world, [parameter, rank_parameter(nn.Parameter(torch.zeros(2)))]).reduce()
    return parameter.master.grad


@pytest.mark.parametrize(
    ("gradients", "total"),
    [((2.0, 3.0), 5.0), ((2.0, None), 2.0), (GRADIENTS, 1.0)],
)
def test_every_rank_has_the_sum(gradients: tuple[float | None, ...], total: float) -> None:
    for gradient in in_group(len(gradients), lambda group: summed(group, gradients)):
        assert gradient is not None and gradient.tolist() == [total, total]


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_parameter_without_gradient_on_any_rank_has_none(ranks: int) -> None:
    """So that an optimizer passes over it, as it does over the unsplit model's."""
    assert in_group(ranks, lambda group: summed(group, (None,) * ranks)) == [None] * ranks


def summed_in_stage_order(group: Any) -> list[list[float]]:
    """Gradients of two tied parameters, which the two ranks meet in opposite orders."""
    world = chain_worlds(made_plan(2))[group.rank()]
    world.tied = {(0, 1): group}
    weights = {
        name: rank_parameter(nn.Parameter(torch.zeros(2)), name, tied_ranks=(0, 1))
        for name in ("bias", "embedding")
    }
    for parameter, gradient in zip(weights.values(), (1.0, 10.0), strict=True):
        parameter.master.grad = torch.full((2,), gradient)
    met = list(weights.values())
    TiedGradients(world, met if group.rank() == 0 else met[::-1]).reduce()
    return [parameter.master.grad.tolist() for parameter in weights.values()]


def test_ranks_that_meet_tied_parameters_in_other_orders_sum_the_same_ones() -> None:
    assert in_group(2, summed_in_stage_order) == [[[2.0, 2.0], [20.0, 20.0]]] * 2


def test_a_rank_without_tied_parameters_sums_nothing() -> None:
    (world,) = chain_worlds(made_plan(1))
    tied = TiedGradients(world, [rank_parameter(nn.Parameter(torch.zeros(2)))])
    assert not tied.parameters
    tied.reduce()
