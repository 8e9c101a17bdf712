"""Sizes become numbers or expressions in `batch`; others are refused."""

import pytest
import sympy

from pipecut.compiler.trace.lower.dimensions import Dimension, Dimensions, NeedsFixedBatch
from pipecut.errors import TraceError

S0, S1, U0 = (sympy.Symbol(name, integer=True, positive=True) for name in ("s0", "s1", "u0"))


@pytest.mark.parametrize(
    ("size", "dimension"),
    [
        (7, Dimension(7, 7)),
        (sympy.Integer(7), Dimension(7, 7)),
        (S0, Dimension("batch", 3)),
        (2 * S0 + 1, Dimension("1 + 2*batch", 7)),
        (sympy.floor(S0 / 2), Dimension("math.floor((1/2)*batch)", 1)),
        (sympy.Min(1, S0), Dimension(1, 1)),
    ],
)
def test_a_size_follows_the_batch_or_is_a_number(size: object, dimension: Dimension) -> None:
    assert Dimensions(microbatch=3, dynamic=True).of(size) == dimension


@pytest.mark.parametrize("size", [U0, 2 * U0, U0 + S0])
@pytest.mark.parametrize("dynamic", [True, False])
def test_a_size_that_depends_on_data_is_refused(size: object, dynamic: bool) -> None:
    with pytest.raises(TraceError, match="depends on data") as refusal:
        Dimensions(3, dynamic).of(size)
    assert not isinstance(refusal.value, NeedsFixedBatch)


def test_a_size_of_two_batches_needs_a_fixed_batch() -> None:
    with pytest.raises(NeedsFixedBatch):
        Dimensions(3, dynamic=True).of(S0 + S1)
