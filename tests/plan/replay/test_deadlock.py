"""What would hang is found from the actions alone, and what would not is passed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecut.errors import PlanError
from pipecut.plan.channels import Channel
from pipecut.plan.replay.deadlock import check_opening, check_order, check_steps
from pipecut.plan.replay.traffic import Traffic
from tests.graphs import ROWS, made_actions

# Two stages on two ranks; activations and gradients cross.
TRAFFIC = Traffic({0: 0, 1: 1}, frozenset({0}), frozenset({0}))
BOTH = [Channel(0, 1), Channel(1, 0)]
FIRST, SECOND = ROWS


def refuse(match: str, *rows: str, occupied: bool = False, opened: list[Channel] = BOTH) -> None:
    with pytest.raises(PlanError, match=match):
        check_steps(TRAFFIC, made_actions(*rows), opened, occupied)


def test_a_schedule_in_order_passes_every_rule() -> None:
    rows = made_actions(*ROWS)
    assert check_order(TRAFFIC, rows) == 4
    check_steps(TRAFFIC, rows, BOTH)
    check_steps(TRAFFIC, rows, BOTH, occupied=True)


def test_receives_in_another_order_than_the_sends_are_named_with_both_ranks() -> None:
    swapped = SECOND.replace("RECV_F 1.0, RECV_F 1.1", "RECV_F 1.1, RECV_F 1.0")
    match = (
        "message 0 from rank 0 to rank 1: rank 0 sends 'SEND_F 0.0', rank 1 receives 'RECV_F 1.1'"
    )
    with pytest.raises(PlanError, match=match):
        check_order(TRAFFIC, made_actions(FIRST, swapped))


def test_a_message_over_a_boundary_that_carries_none_is_refused() -> None:
    no_gradients = Traffic({0: 0, 1: 1}, frozenset({0}), frozenset())
    with pytest.raises(PlanError, match="'RECV_B 0.0': the plan sends nothing there"):
        check_order(no_gradients, made_actions(*ROWS))


def test_a_compute_waits_for_its_receive() -> None:
    late = SECOND.replace("RECV_F 1.1, F 1.0", "F 1.0").replace(" B 1.0", " B 1.0, RECV_F 1.1")
    check_steps(TRAFFIC, made_actions(FIRST, late), BOTH)
    never = SECOND.replace("RECV_F 1.0, RECV_F 1.1, F 1.0", "F 1.0, RECV_F 1.0, RECV_F 1.1")
    refuse("deadlocks: rank 0 at .*; rank 1 at 'F 1.0'", FIRST, never)


def test_a_send_before_its_compute_is_refused() -> None:
    early = FIRST.replace("F 0.0, SEND_F 0.0", "SEND_F 0.0, F 0.0")
    refuse("'SEND_F 0.0' comes before what it sends is computed", early, SECOND)


def test_gradients_of_weights_wait_for_those_of_inputs() -> None:
    alone = Traffic({0: 0}, frozenset(), frozenset())
    check_steps(alone, made_actions("F 0.0, I 0.0, W 0.0"), [])
    with pytest.raises(PlanError, match="rank 0 at 'W 0.0'"):
        check_steps(alone, made_actions("F 0.0, W 0.0, I 0.0"), [])


def test_stages_of_one_rank_wait_for_each_other_without_messages() -> None:
    together = Traffic({0: 0, 1: 0}, frozenset(), frozenset())
    check_steps(together, made_actions("F 0.0, F 1.0, B 1.0, B 0.0"), [])
    with pytest.raises(PlanError, match="rank 0 at 'F 1.0'"):
        check_steps(together, made_actions("F 1.0, F 0.0, B 1.0, B 0.0"), [])


def test_a_receive_in_the_way_hangs_only_where_messages_occupy_their_ranks() -> None:
    early = FIRST.replace("F 0.0, ", "RECV_B 0.0, F 0.0, ", 1).replace(", RECV_B 0.0, B", ", B")
    check_steps(TRAFFIC, made_actions(early, SECOND), BOTH)
    refuse("on a GPU that synchronises.*rank 0 at 'RECV_B 0.0'", early, SECOND, occupied=True)


def test_a_channel_that_is_not_open_waits_for_its_other_rank() -> None:
    early = FIRST.replace("F 0.0, ", "RECV_B 0.0, F 0.0, ", 1).replace(", RECV_B 0.0, B", ", B")
    refuse("deadlocks: rank 0 at 'RECV_B 0.0'", early, SECOND, opened=[])
    check_steps(TRAFFIC, made_actions(*ROWS), [])


def test_groups_that_wait_in_a_circle_are_refused() -> None:
    check_opening({0: [(0, 1)], 1: [(0, 1), (1, 2)], 2: [(1, 2)]})
    with pytest.raises(PlanError, match="ranks 0, 1, 2 wait in a circle"):
        check_opening({0: [(0, 1), (0, 2)], 1: [(1, 2), (0, 1)], 2: [(0, 2), (1, 2)]})


@given(st.permutations(range(8)))
def test_an_action_moved_anywhere_either_passes_or_is_refused(order: list[int]) -> None:
    actions = SECOND.split(", ")
    rows = made_actions(FIRST, ", ".join(actions[index] for index in order))
    try:
        check_order(TRAFFIC, rows)
        check_steps(TRAFFIC, rows, BOTH, occupied=True)
    except PlanError:
        return
    # What occupies no deadlock withstands rendezvous, too.
    check_steps(TRAFFIC, rows, BOTH)
