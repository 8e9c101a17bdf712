"""Time a forward and a backward on a real device until the median holds still."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from pipecut.device.memory import flush_cache
from pipecut.device.types import type_of
from pipecut.device.work import synchronize, timing_event

T = TypeVar("T")
S = TypeVar("S")
# Runs at the least and at the most, seconds for one measurement, and the spread at which it is enough.
FEWEST, MOST, SECONDS, SPREAD = 5, 40, 0.4, 0.03
# Runs that a GPU is given at once.
QUEUED = 5


@dataclass(frozen=True)
class Timed:
    """Median seconds; the spread is half the range of the middle half of forward and backward together, over their median."""

    forward: float
    backward: float
    spread: float
    runs: int


def time_passes(
    prepare: Callable[[], T],
    forward: Callable[[T], S],
    backward: Callable[[S], None] | None,
    device: torch.device,
) -> Timed:
    """Run all in turn; `forward` gets what `prepare` returned, whose time is not counted, and `backward` what `forward` did."""
    if type_of(device).queued:
        return _time_queued(prepare, forward, backward, device)
    begin = time.perf_counter()
    found: list[tuple[float, float]] = []
    while not enough([a + b for a, b in found], begin, SECONDS):
        given = prepare()
        start = now(device)
        result = forward(given)
        middle = now(device)
        if backward is not None:
            backward(result)
        found.append((middle - start, now(device) - middle if backward is not None else 0.0))
    return medians(found)


def _time_queued(
    prepare: Callable[[], T],
    forward: Callable[[T], S],
    backward: Callable[[S], None] | None,
    device: torch.device,
) -> Timed:
    """On a GPU, between events around launches that are queued, so that the host's own time is in none of it.

    The cache is flushed before each run: in a step, another operator's tensors are in it.
    """
    begin = time.perf_counter()
    found: list[tuple[float, float]] = []
    while not enough([a + b for a, b in found], begin, SECONDS):
        marks = []
        for _ in range(QUEUED):
            given = prepare()
            # It also keeps the device at work while the host launches what is timed.
            flush_cache(device)
            start, middle, end = (timing_event(device) for _ in range(3))
            start.record()
            result = forward(given)
            middle.record()
            if backward is not None:
                backward(result)
            end.record()
            marks.append((start, middle, end))
        synchronize(device)
        found += [
            (a.elapsed_time(b) / 1e3, b.elapsed_time(c) / 1e3 if backward is not None else 0.0)
            for a, b, c in marks
        ]
    return medians(found)


def medians(found: list[tuple[float, float]]) -> Timed:
    """Of runs forward and backward, of which the first warms up."""
    warm = found[1:]
    return Timed(
        statistics.median(a for a, _ in warm),
        statistics.median(b for _, b in warm),
        _spread([a + b for a, b in warm]),
        len(found),
    )


def enough(totals: list[float], begin: float, seconds: float) -> bool:
    """Whether the runs so far hold still, or took the `seconds` they may since `begin`. The first one warms up."""
    if len(totals) <= FEWEST:
        return False
    return (
        len(totals) >= MOST
        or _spread(totals[1:]) <= SPREAD
        or time.perf_counter() - begin > seconds
    )


def _spread(totals: list[float]) -> float:
    low, middle, high = statistics.quantiles(totals, n=4)
    return (high - low) / 2 / middle if middle else 0.0


def now(device: torch.device) -> float:
    """Seconds of the clock, once the device has done what it was told."""
    synchronize(device)
    return time.perf_counter()
