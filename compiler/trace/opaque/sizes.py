"""Sizes that were seen with two batches: fixed, or so many per sample."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipecut.model.opaque.nested import Leaf


@dataclass(frozen=True)
class Size(Leaf):
    """A number that is fixed, or so many times the batch size."""

    fixed: int = 0
    per_sample: Fraction = Fraction(0)

    @property
    def text(self) -> str:
        """As a plan's dimension."""
        if not self.per_sample:
            return str(self.fixed)
        size, divisor = f"{self.per_sample.numerator}*batch", self.per_sample.denominator
        return size if divisor == 1 else f"{size}//{divisor}"

    def of(self, batch: Any) -> Any:
        """The size for a batch, whose size may be a symbol of a trace."""
        if not self.per_sample:
            return self.fixed
        size = batch * self.per_sample.numerator
        return size if self.per_sample.denominator == 1 else size // self.per_sample.denominator


def size_of(first: int, samples: int, second: int, other_samples: int) -> Size | None:
    """What two sizes seen with two batch sizes say; None where they follow something else."""
    if first == second:
        return Size(fixed=first)
    if Fraction(first, samples) == Fraction(second, other_samples):
        return Size(per_sample=Fraction(first, samples))
    return None
