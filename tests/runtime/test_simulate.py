"""The predicted step of equal stages is the field's formula."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecut.compiler.schedules import ORDERS, lower
from pipecut.runtime.simulate import Costs, Timeline, simulate


def timeline(schedule: str, stages: int, microbatches: int, costs: Costs) -> Timeline:
    orders = [ORDERS[schedule](s, stages, microbatches) for s in range(stages)]
    boundaries = range(stages - 1)
    return simulate(lower(orders, boundaries, boundaries, reduce=True), costs)


@pytest.mark.parametrize("schedule", sorted(ORDERS))
@given(stages=st.integers(1, 8), microbatches=st.integers(1, 16), forward=st.integers(1, 5), backward=st.integers(1, 9))
def test_equal_stages_take_the_published_step_and_bubble(
    schedule: str, stages: int, microbatches: int, forward: int, backward: int
) -> None:
    free = {("F", s): 0.0 for s in range(stages)} | {("B", s): 0.0 for s in range(stages)}
    found = timeline(schedule, stages, microbatches, Costs([forward] * stages, [backward] * stages, free, [0.0] * stages))
    # Narayanan et al., 2021, section 2.2.1: (p - 1) / (m + p - 1) of the step is bubble, for GPipe and 1F1B alike.
    assert found.step_seconds == pytest.approx((microbatches + stages - 1) * (forward + backward))
    assert found.bubble == pytest.approx((stages - 1) / (microbatches + stages - 1))
    assert sum(event.action.kind in ("F", "B") for event in found.events) == 2 * stages * microbatches


def test_transfers_and_reductions_take_their_time() -> None:
    costs = Costs([1.0, 1.0], [2.0, 2.0], {("F", 1): 0.5, ("B", 0): 0.25}, [0.1, 3.0])
    found = timeline("1f1b", 2, 1, costs)
    # Of a tied parameter the sum begins when both are ready, and both have it at once.
    tied = timeline("1f1b", 2, 1, Costs([1.0, 1.0], [2.0, 2.0], {("F", 1): 0.5, ("B", 0): 0.25}, [0.0, 0.0], [((0, 1), 0.5)]))
    assert tied.step_seconds == pytest.approx(1 + 0.5 + 1 + 2 + 0.25 + 2 + 0.5)
    assert [event.end for event in tied.events if event.action.kind == "REDUCE"] == [tied.step_seconds] * 2
    # F0, its message, F1, B1, its message, B0; and the second rank sums its gradients after B1.
    assert found.step_seconds == pytest.approx(max(1 + 0.5 + 1 + 2 + 0.25 + 2 + 0.1, 1 + 0.5 + 1 + 2 + 3))
