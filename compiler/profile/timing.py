"""Time a forward and a backward on a real device until the median holds still."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch

from pipecut.device.memory import flush_cache
from pipecut.device.types import type_of
from pipecut.device.work import synchronize, timing_event

T = TypeVar("T")
S = TypeVar("S")
# Runs at the least and at the most.
FEWEST, MOST = 5, 40
# Seconds that one measurement may take, and the spread at which it is over before.
SECONDS, SPREAD = 0.4, 0.03
# Runs that a GPU is given at once.
QUEUED = 5


class PassSeconds(NamedTuple):
    """Seconds of one run forward and backward."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Both."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Timed:
    """Median seconds of runs.

    `spread` is half the range of the middle half of the runs, forward and backward together, over
    their median.
    """

    forward: float
    backward: float
    spread: float
    runs: int

    @property
    def total(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


def time_passes(
    prepare: Callable[[], T],
    forward: Callable[[T], S],
    backward: Callable[[S], None] | None,
    device: torch.device,
) -> Timed:
    """Run all three in turn.

    `forward` gets what `prepare` returned, whose time does not count, and `backward` what `forward`
    did.
    """
    once = _queued_runs if type_of(device).queued else _clocked_run
    begin = time.perf_counter()
    runs: list[PassSeconds] = []
    while not enough([run.total for run in runs], begin, SECONDS):
        runs += once(prepare, forward, backward, device)
    return medians(runs)


def _clocked_run(
    prepare: Callable[[], T],
    forward: Callable[[T], S],
    backward: Callable[[S], None] | None,
    device: torch.device,
) -> Iterator[PassSeconds]:
    """One run by the host's clock."""
    prepared = prepare()
    start = now(device)
    result = forward(prepared)
    middle = now(device)
    if backward is not None:
        backward(result)
    end = now(device)
    yield PassSeconds(middle - start, end - middle if backward is not None else 0.0)


def _queued_runs(
    prepare: Callable[[], T],
    forward: Callable[[T], S],
    backward: Callable[[S], None] | None,
    device: torch.device,
) -> Iterator[PassSeconds]:
    """Runs between events around queued launches, so that the host's own time is in none of them.

    The cache is flushed before each run: in a step, another operator's tensors are in it.
    """
    marks = []
    for _ in range(QUEUED):
        prepared = prepare()
        # It also keeps the device at work while the host launches what is timed.
        flush_cache(device)
        start, middle, end = (timing_event(device) for _ in range(3))
        start.record()
        result = forward(prepared)
        middle.record()
        if backward is not None:
            backward(result)
        end.record()
        marks.append((start, middle, end))
    synchronize(device)
    for start, middle, end in marks:
        # Events count milliseconds.
        seconds = middle.elapsed_time(end) / 1e3 if backward is not None else 0.0
        yield PassSeconds(start.elapsed_time(middle) / 1e3, seconds)


def medians(runs: Sequence[PassSeconds]) -> Timed:
    """Medians of all runs but the first, which warms up."""
    warm = runs[1:]
    return Timed(
        statistics.median(run.forward for run in warm),
        statistics.median(run.backward for run in warm),
        spread_of([run.total for run in warm]),
        len(runs),
    )


def enough(totals: Sequence[float], begin: float, seconds: float) -> bool:
    """Whether the runs so far hold still, or took the seconds they may since `begin`.

    The first run warms up.
    """
    if len(totals) <= FEWEST:
        return False
    return (
        len(totals) >= MOST
        or spread_of(totals[1:]) <= SPREAD
        or time.perf_counter() - begin > seconds
    )


def spread_of(totals: Sequence[float]) -> float:
    """Half the range of the middle half, over the median; 0 where that is 0."""
    low, middle, high = statistics.quantiles(totals, n=4)
    return (high - low) / 2 / middle if middle else 0.0


def now(device: torch.device) -> float:
    """Seconds of the clock, once the device has done what it was asked for."""
    synchronize(device)
    return time.perf_counter()
