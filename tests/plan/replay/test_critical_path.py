"""The critical path: contiguous, as long as the step, and felt by every cost on it."""

from collections import Counter
from dataclasses import replace

import pytest

from pipecut.compiler.schedules.lower import lower
from pipecut.compiler.schedules.registry import SCHEDULES, orders, pipeline_ranks_of
from pipecut.plan.actions import ActionTable, Compute, Hop, kind_of
from pipecut.plan.replay.critical_path import critical_path
from pipecut.plan.replay.simulate import Costs, TiedSum, simulate
from tests.graphs import made_actions

COSTS = Costs([1.0, 1.0], [2.0, 2.0], {Hop("F", 1): 0.5, Hop("B", 0): 0.25}, [0.1, 3.0])
STEP = made_actions(
    "F 0.0, SEND_F 0.0, RECV_B 0.0, B 0.0, REDUCE",
    "RECV_F 1.0, F 1.0, B 1.0, SEND_B 1.0, REDUCE",
)


def path_of(actions: ActionTable, costs: Costs) -> list[str]:
    path = critical_path(simulate(actions, costs), costs)
    return [f"{event.rank}: {event.action}" for event in path.events]


def test_a_long_sum_on_the_last_rank_ends_the_path_there() -> None:
    assert path_of(STEP, COSTS) == [
        "0: F 0.0",
        "0: SEND_F 0.0",
        "1: F 1.0",
        "1: B 1.0",
        "1: REDUCE",
    ]


def test_a_path_comes_back_with_the_gradients() -> None:
    short = replace(COSTS, reductions=[0.1, 0.1])
    assert path_of(STEP, short)[-3:] == ["1: SEND_B 1.0", "0: B 0.0", "0: REDUCE"]


def test_tied_gradients_wait_for_the_latest_rank() -> None:
    tied = replace(COSTS, ties=[TiedSum((0, 1), 0.5)])
    # Rank 1 sums longest, after rank 0's backward, which ends last.
    assert path_of(STEP, tied)[-2:] == ["0: B 0.0", "1: REDUCE"]


def test_a_full_channel_is_on_the_path() -> None:
    slow = replace(COSTS, transfers={Hop("F", 1): 5.0, Hop("B", 0): 0.0}, reductions=[0.0, 0.0])
    sends = "F 0.0, SEND_F 0.0, F 0.1, SEND_F 0.1"
    path = path_of(made_actions(sends, "RECV_F 1.0, RECV_F 1.1, F 1.0, F 1.1"), slow)
    assert path == ["0: F 0.0", "0: SEND_F 0.0", "0: SEND_F 0.1", "1: F 1.1"]


def test_a_step_of_nothing_has_no_path() -> None:
    nothing = Costs([], [], {}, [])
    assert critical_path(simulate([[]], nothing), nothing).events == ()


def scheduled(name: str, blocking: bool) -> tuple[ActionTable, Costs]:
    """Four ranks of unequal stages under a schedule."""
    per_rank = 2 if SCHEDULES[name].stages_per_rank != 1 else 1
    stages = 4 * per_rank
    order = orders(name, stages, 8, per_rank)
    layout = pipeline_ranks_of(name, stages, per_rank)
    everywhere = set(range(stages - 1))
    actions = lower(order, layout, everywhere, everywhere, reduce=True)
    hops = [Hop("F", s + 1) for s in range(stages - 1)] + [Hop("B", s) for s in range(stages - 1)]
    costs = Costs(
        forward=[1.0 + 0.13 * stage for stage in range(stages)],
        backward=[2.0 + 0.07 * stage for stage in range(stages)],
        transfers={hop: 0.11 + 0.01 * at for at, hop in enumerate(hops)},
        reductions=[0.3, 0.1, 0.2, 0.4],
        ties=[TiedSum((0, 3), 0.5)],
        blocking=blocking,
        weights=[0.9] * stages,
    )
    return actions, costs


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_cost_on_the_path_is_felt(name: str, blocking: bool) -> None:
    actions, costs = scheduled(name, blocking)
    timeline = simulate(actions, costs)
    path = critical_path(timeline, costs).events
    assert path[0].start == 0.0 and path[-1].end == timeline.step_seconds
    for before, event in zip(path, path[1:], strict=False):
        # A sum of tied gradients begins before its slowest rank is there.
        assert event.start >= before.end or kind_of(event.action) == "REDUCE"
        assert blocking or kind_of(event.action) == "REDUCE" or event.start == before.end
    counts = Counter(
        event.action.stage
        for event in path
        if isinstance(event.action, Compute) and event.action.op == "F"
    )
    for stage, times in counts.items():
        longer = [s + 1e-3 * (at == stage) for at, s in enumerate(costs.forward)]
        slowed = simulate(actions, replace(costs, forward=longer)).step_seconds
        assert slowed - timeline.step_seconds >= 1e-3 * times - 1e-9
