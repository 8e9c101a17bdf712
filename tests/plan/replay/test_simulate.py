"""Steps whose timeline was worked out by hand."""

from dataclasses import replace

import pytest

from pipecut.plan.actions import Hop, Message, Reduce, Send
from pipecut.plan.replay.simulate import BoundaryTraffic, Costs, TiedSum, costs_of, simulate
from pipecut.plan.schema.plan import Tied
from tests.golden import check_golden
from tests.graphs import ROWS, made_actions
from tests.plans import made_plan, made_stage

# Two stages: forward 1 s, backward 2 s; 0.5 s for activations, 0.25 s for gradients.
COSTS = Costs([1.0, 1.0], [2.0, 2.0], {Hop("F", 1): 0.5, Hop("B", 0): 0.25}, [0.1, 3.0])
STEP = made_actions(
    "F 0.0, SEND_F 0.0, RECV_B 0.0, B 0.0, REDUCE",
    "RECV_F 1.0, F 1.0, B 1.0, SEND_B 1.0, REDUCE",
)


def test_messages_and_sums_take_their_time() -> None:
    timeline = simulate(STEP, COSTS)
    # F, its message, F, B, its message, B and the sum; the second rank sums longer.
    assert timeline.step_seconds == pytest.approx(
        max(1 + 0.5 + 1 + 2 + 0.25 + 2 + 0.1, 1 + 0.5 + 1 + 2 + 3)
    )
    # Each rank computes 3 s.
    assert timeline.bubble == pytest.approx(1 - 3 / timeline.step_seconds)


def test_tied_gradients_are_summed_when_the_last_rank_is_ready() -> None:
    tied = simulate(STEP, replace(COSTS, reductions=[0.0, 0.0], ties=[TiedSum((0, 1), 0.5)]))
    assert tied.step_seconds == pytest.approx(1 + 0.5 + 1 + 2 + 0.25 + 2 + 0.5)
    ends = [event.end for event in tied.events if event.action == Reduce()]
    assert ends == [tied.step_seconds] * 2


def test_a_channel_carries_one_message_at_a_time() -> None:
    slow = replace(COSTS, transfers={Hop("F", 1): 5.0, Hop("B", 0): 0.0})
    timeline = simulate(made_actions(*ROWS), slow)
    sends = [event for event in timeline.events if event.action == Send(Message("F", 1, 1))]
    # The second forward ends at 2 s, and its message waits until the first has arrived at 6 s.
    assert [(event.start, event.end) for event in sends] == [(6.0, 11.0)]


def test_a_rank_that_carries_its_own_messages_computes_later() -> None:
    blocking = simulate(STEP, replace(COSTS, blocking=True))
    events = {str(event.action): event for event in blocking.events}
    assert events["SEND_F 0.0"].end == 1.5
    # The receiver waited for the message anyway, but sums its gradients once it has sent its own.
    assert events["F 1.0"].start == 1.5
    assert blocking.step_seconds == 1.5 + 1 + 2 + 0.25 + 3
    two = made_actions(*ROWS)
    starts = {str(e.action): e.start for e in simulate(two, replace(COSTS, blocking=True)).events}
    # The second forward waits for the first message to leave.
    assert starts["F 0.1"] == 1.5


def test_a_split_backward_takes_the_parts_it_is_split_into() -> None:
    alone = replace(COSTS, weights=[0.5, 0.5], reductions=[0.0])
    timeline = simulate(made_actions("F 0.0, I 0.0, W 0.0"), alone)
    spans = [(str(event.action), event.start, event.end) for event in timeline.events]
    assert spans == [("F 0.0", 0.0, 1.0), ("I 0.0", 1.0, 2.5), ("W 0.0", 2.5, 3.0)]
    assert timeline.bubble == 0.0


def test_what_waits_for_itself_stands_still() -> None:
    stuck = made_actions(
        "RECV_B 0.0, B 0.0, F 0.0, SEND_F 0.0", "RECV_F 1.0, F 1.0, B 1.0, SEND_B 1.0"
    )
    assert simulate(stuck, COSTS).events == ()


def test_the_costs_of_a_plan_are_those_of_its_stages_and_links() -> None:
    first, last = made_stage(0, 2), made_stage(1, 2)
    stages = [
        first.model_copy(update={"recompute": True, "reduce_seconds": 0.5}),
        last.model_copy(update={"weight_seconds": 0.75, "device_type": "cuda"}),
    ]
    tied = Tied(names=["layers.0.weight"], stages=[0, 1], reduce_seconds=0.125)
    costs = costs_of(made_plan(2, stages=stages, tied=[tied]))
    # The first stage runs its forward again.
    assert (costs.forward, costs.backward, costs.weights) == ([1, 1], [3, 2], [0, 0.75])
    assert costs.reductions == [0.5, 0.0] and costs.ties == [TiedSum((0, 1), 0.125)]
    # A microbatch of two samples of four numbers, over 1 GB/s without latency.
    assert costs.transfers == {Hop("F", 1): 32e-9, Hop("B", 0): 32e-9}
    assert not costs.blocking and costs_of(made_plan(2)).blocking


def test_traffic_takes_latency_and_bytes_over_bandwidth() -> None:
    seconds = BoundaryTraffic(100, 50, latency=1.0, bandwidth=10.0).seconds_after(3)
    assert seconds == {Hop("F", 4): 11.0, Hop("B", 3): 6.0}


def test_a_timeline_prints_itself() -> None:
    check_golden("replay/timeline", str(simulate(STEP, COSTS)))
