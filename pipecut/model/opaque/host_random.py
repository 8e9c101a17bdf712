"""Python's and NumPy's own random numbers, which torch's seeds do not reach."""

import random
from dataclasses import dataclass
from typing import Any

import numpy


@dataclass(frozen=True)
class HostRandom:
    """The states of their generators at a time."""

    python: Any
    numpy: Any

    @staticmethod
    def now() -> "HostRandom":
        """As they are."""
        return HostRandom(random.getstate(), numpy.random.get_state())

    @property
    def who_drew(self) -> str | None:
        """The library that has drawn since then, by its name in Python."""
        now = HostRandom.now()
        if now.python != self.python:
            return "random"
        pairs = zip(now.numpy, self.numpy, strict=True)
        return None if all(numpy.array_equal(a, b) for a, b in pairs) else "numpy.random"

    def put_back(self) -> None:
        """Let them draw again what they drew since then."""
        random.setstate(self.python)
        numpy.random.set_state(self.numpy)


def seed_host(seed: int) -> None:
    """Let them begin with a seed of 63 bits."""
    random.seed(seed)
    numpy.random.seed([seed >> 32, seed & 0xFFFFFFFF])
