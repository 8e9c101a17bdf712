"""Sizes that two batches show."""

import pytest

from pipecut.compiler.trace.opaque.sizes import size_of
from pipecut.plan.schema import evaluate


@pytest.mark.parametrize(
    ("seen", "batches", "expected"),
    [
        ((7, 7), (2, 3), 7),
        ((12, 18), (2, 3), 60),
        ((1, 2), (2, 4), 5),
        ((5, 7), (2, 3), None),
        ((0, 3), (2, 3), None),
    ],
)
def test_a_size_is_fixed_or_follows_the_batch(
    seen: tuple[int, int], batches: tuple[int, int], expected: int | None
) -> None:
    size = size_of(seen[0], batches[0], seen[1], batches[1])
    assert (None if size is None else size.of(10)) == expected
    assert size is None or evaluate(size.text, {"batch": 10}) == expected
