"""Runs are timed until their median holds still."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipecut.compiler.profile import timing
from pipecut.compiler.profile.timing import (
    FEWEST,
    MOST,
    PassSeconds,
    Timed,
    enough,
    medians,
    spread_of,
    time_passes,
)

CPU = torch.device("cpu")


def test_the_first_run_warms_up_and_does_not_count() -> None:
    runs = [PassSeconds(100, 100), *(PassSeconds(n, 2 * n) for n in (1, 2, 3))]
    timed = medians(runs)
    assert (timed.forward, timed.backward, timed.runs, timed.total) == (2, 4, 4, 6)


@pytest.mark.parametrize(
    ("totals", "expected"), [([4.0, 4.0, 4.0], 0.0), ([1.0, 2.0, 3.0], 0.5), ([0.0, 0.0], 0.0)]
)
def test_the_spread_is_relative_to_the_median(totals: list[float], expected: float) -> None:
    assert spread_of(totals) == pytest.approx(expected)


def test_equal_runs_are_enough_after_a_few_and_others_go_on() -> None:
    still, noisy = [1.0] * MOST, [1.0, 5.0] * MOST
    now = timing.time.perf_counter()
    assert not enough(still[:FEWEST], now, 100.0)
    assert enough(still[: FEWEST + 1], now, 100.0)
    assert not enough(noisy[: FEWEST + 1], now, 100.0)
    assert enough(noisy[: FEWEST + 1], now - 101, 100.0)
    assert enough(noisy[:MOST], now, 100.0)


@given(st.lists(st.floats(1e-6, 1e3), min_size=3, max_size=30))
def test_the_median_lies_within_the_runs(seconds: list[float]) -> None:
    timed = medians([PassSeconds(s, 0.0) for s in seconds])
    assert min(seconds[1:]) <= timed.forward <= max(seconds[1:])
    assert timed.spread >= 0


def test_each_run_is_prepared_and_goes_forward_and_backward(monkeypatch: Any) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(timing, "now", lambda _: float(next(clock)))
    calls: list[str] = []
    timed = time_passes(
        lambda: calls.append("prepare"),
        lambda _: calls.append("forward"),
        lambda _: calls.append("backward"),
        CPU,
    )
    assert calls == ["prepare", "forward", "backward"] * timed.runs
    assert timed == Timed(1.0, 1.0, 0.0, FEWEST + 1)
    alone = time_passes(lambda: None, lambda _: None, None, CPU)
    assert (alone.forward, alone.backward) == (1.0, 0.0)
