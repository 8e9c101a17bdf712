"""Messages and sums of gradients take their time in the predicted step."""

import pytest

from pipecut.compiler.schedules.lower import lower
from pipecut.compiler.schedules.registry import orders
from pipecut.plan.actions import Hop, Reduce
from pipecut.plan.replay.simulate import Costs, TiedSum, Timeline, simulate


def timeline(schedule: str, stages: int, microbatches: int, costs: Costs) -> Timeline:
    boundaries = range(stages - 1)
    rows = lower(
        orders(schedule, stages, microbatches, 1),
        range(stages),
        boundaries,
        boundaries,
        reduce=True,
    )
    return simulate(rows, costs)


def test_transfers_and_reductions_take_their_time() -> None:
    costs = Costs([1.0, 1.0], [2.0, 2.0], {Hop("F", 1): 0.5, Hop("B", 0): 0.25}, [0.1, 3.0])
    found = timeline("1f1b", 2, 1, costs)
    # Of a tied parameter the sum begins when both are ready, and both have it at once.
    tied = timeline(
        "1f1b",
        2,
        1,
        Costs(
            [1.0, 1.0],
            [2.0, 2.0],
            {Hop("F", 1): 0.5, Hop("B", 0): 0.25},
            [0.0, 0.0],
            [TiedSum((0, 1), 0.5)],
        ),
    )
    assert tied.step_seconds == pytest.approx(1 + 0.5 + 1 + 2 + 0.25 + 2 + 0.5)
    assert [event.end for event in tied.events if event.action == Reduce()] == [
        tied.step_seconds
    ] * 2
    # F0, its message, F1, B1, its message, B0; and the second rank sums its gradients after B1.
    assert found.step_seconds == pytest.approx(
        max(1 + 0.5 + 1 + 2 + 0.25 + 2 + 0.1, 1 + 0.5 + 1 + 2 + 3)
    )
