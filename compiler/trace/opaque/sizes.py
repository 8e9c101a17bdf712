"""Sizes that were seen with several batches: fixed, or so many for each sample, step or both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipecut.model.opaque.nested import Leaf


@dataclass(frozen=True)
class Seen:
    """A number that was seen with a batch of such sizes: `batch`, and lengths by name."""

    value: int
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Size(Leaf):
    """So many times the product of sizes of a batch, by name; a fixed number without any."""

    factor: Fraction
    follows: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As a plan's dimension."""
        size = "*".join((str(self.factor.numerator), *self.follows))
        return size if self.factor.denominator == 1 else f"{size}//{self.factor.denominator}"

    def of(self, sizes: Mapping[str, Any]) -> Any:
        """The size for a batch, whose sizes may be symbols of a trace."""
        size: Any = self.factor.numerator
        for name in self.follows:
            size = sizes[name] * size
        return size if self.factor.denominator == 1 else size // self.factor.denominator


def size_of(seen: Sequence[Seen]) -> Size | None:
    """What a number seen with several batches is for any; None where it follows something else.

    Each batch but the first differs from the first in one size.
    """
    first = seen[0]
    follows = tuple(
        name
        for name, size in first.sizes.items()
        if any(other.sizes[name] != size and other.value != first.value for other in seen)
    )
    factors = {
        Fraction(other.value, math.prod(other.sizes[name] for name in follows)) for other in seen
    }
    return Size(factors.pop(), follows) if len(factors) == 1 else None
