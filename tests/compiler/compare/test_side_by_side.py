"""What differs between a model and its graph by more than rounding."""

import torch

from pipecut.compiler.compare.side_by_side import beyond_rounding

ONES = {"loss/loss": torch.ones(1), "gradient/a": torch.ones(1), "gradient/b": torch.ones(1)}
APART = torch.full((1,), 1.001)


def test_a_tensor_that_the_last_bits_move_as_far_does_not_differ() -> None:
    assert beyond_rounding(ONES, ONES | {"gradient/a": APART}, ONES, 1e-5).value == 0.0
    nothing = beyond_rounding(
        ONES | {"gradient/a": APART}, ONES, ONES | {"gradient/a": APART}, 1e-5
    )
    assert nothing.value == 0.0


def test_a_tensor_is_not_excused_by_the_rounding_of_another() -> None:
    nudged = ONES | {"gradient/b": torch.full((1,), 2.0)}
    difference = beyond_rounding(ONES | {"gradient/a": APART}, ONES, nudged, 1e-5)
    assert difference.tensor == "gradient/a" and difference.value > 9e-4
