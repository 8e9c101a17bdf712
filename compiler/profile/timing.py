"""Time a forward and a backward on a real device until the median holds still."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")
S = TypeVar("S")
# Runs at the least and at the most, seconds for one measurement, and the spread at which it is enough.
FEWEST, MOST, SECONDS, SPREAD = 5, 40, 0.4, 0.03


@dataclass(frozen=True)
class Timed:
    """Median seconds; the spread is half the range of the middle half of forward and backward together, over their median."""

    forward: float
    backward: float
    spread: float
    runs: int


def time_passes(
    prepare: Callable[[], T], forward: Callable[[T], S], backward: Callable[[S], None] | None, device: torch.device
) -> Timed:
    """Run all in turn; `forward` gets what `prepare` returned, whose time is not counted, and `backward` what `forward` did."""
    begin = time.perf_counter()
    first: list[float] = []
    second: list[float] = []
    while len(first) < MOST:
        given = prepare()
        start = _now(device)
        result = forward(given)
        middle = _now(device)
        if backward is not None:
            backward(result)
        end = _now(device)
        first.append(middle - start)
        second.append(end - middle if backward is not None else 0.0)
        if len(first) > FEWEST and (_spread(first, second) <= SPREAD or time.perf_counter() - begin > SECONDS):
            break
    # The first run warms up.
    return Timed(statistics.median(first[1:]), statistics.median(second[1:]), _spread(first, second), len(first))


def _spread(first: list[float], second: list[float]) -> float:
    both = [a + b for a, b in zip(first[1:], second[1:], strict=True)]
    low, middle, high = statistics.quantiles(both, n=4)
    return (high - low) / 2 / middle if middle else 0.0


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
