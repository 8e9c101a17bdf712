"""Sizes that several batches show."""

import pytest

from pipecut.compiler.trace.opaque.sizes import Seen, size_of
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
    size = size_of([Seen(v, {"batch": b}) for v, b in zip(seen, batches, strict=True)])
    assert (None if size is None else size.of({"batch": 10})) == expected
    assert size is None or evaluate(size.text, {"batch": 10}) == expected


BATCHES = [{"batch": 2, "length": 8}, {"batch": 3, "length": 8}, {"batch": 2, "length": 4}]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ((5, 5, 5), 5),
        ((4, 6, 4), 20),
        ((8, 8, 4), 6),
        ((4, 4, 2), 3),
        ((16, 24, 8), 60),
        ((9, 9, 5), None),
        ((10, 11, 6), None),
    ],
)
def test_a_size_may_follow_a_length_and_the_batch(
    seen: tuple[int, ...], expected: int | None
) -> None:
    size = size_of([Seen(v, sizes) for v, sizes in zip(seen, BATCHES, strict=True)])
    other = {"batch": 10, "length": 6}
    assert (None if size is None else size.of(other)) == expected
    assert size is None or evaluate(size.text, other) == expected
