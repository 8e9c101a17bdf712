"""Which rank of several hosts went silent or stands still, from values."""

import json

from pipecut.runtime.health.status import State
from pipecut.runtime.health.watchdog import Limits
from pipecut.runtime.ranks.signs_of_life import (
    Heard,
    early_message,
    find_stall,
    hear,
    silence_message,
    silent,
)

LIMITS = Limits(stall=60, start=100, save=80)


def said(number: int, state: State, seconds: float, text: str) -> str:
    return json.dumps([number, state, seconds, text])


def test_only_a_new_sign_of_life_counts() -> None:
    first = hear(Heard(1, "b", -1, 0.0), said(1, State.COMPUTING, 2.0, "in step 3"), 10.0)
    assert first.at == 10.0 and first.text == "in step 3"
    assert hear(first, said(1, State.COMPUTING, 2.0, "in step 3"), 20.0) is first
    assert hear(first, None, 20.0) is first
    assert hear(first, said(2, State.WAITING, 0.1, "in step 4"), 20.0).at == 20.0


def test_a_silent_rank_is_named_with_host_step_and_action() -> None:
    alive = Heard(0, "a", 9, 95.0, State.WAITING, 3.0, "in step 3, waiting for other ranks")
    lost = Heard(1, "b", 5, 60.0, State.COMPUTING, 1.0, "in step 3, action 'F 1.2'")
    assert silent([alive, lost], 100.0, 30.0) is lost
    assert silent([alive, lost], 80.0, 30.0) is None
    message = silence_message(lost, [alive, lost], 100.0)
    assert message.startswith(
        "rank 1 on host b has been silent for 40 s, last in step 3, action 'F 1.2'"
    )
    assert "\n  rank 0 on host a: in step 3, waiting" in message


def test_a_rank_that_ended_well_may_be_silent() -> None:
    ended = Heard(1, "b", 5, 0.0, State.ENDED, 1.0, "after its last step")
    assert silent([ended], 1000.0, 30.0) is None


def test_a_rank_that_lives_and_stands_still_is_named() -> None:
    waiting = Heard(0, "a", 9, 100.0, State.WAITING, 70.0, "in step 3, waiting")
    stuck = Heard(1, "b", 9, 100.0, State.COMPUTING, 61.0, "in step 3, action 'F 1.2'")
    stall = find_stall([waiting, stuck], 100.0, LIMITS)
    assert stall is not None and stall.rank == 1
    assert stall.message.startswith("rank 1 on host b has stood still for 60 s in step 3, action")
    saving = Heard(1, "b", 9, 100.0, State.SAVING, 61.0, "while saving")
    assert find_stall([waiting, saving], 100.0, LIMITS) is None


def test_a_rank_that_left_while_others_went_on_is_named() -> None:
    left = Heard(0, "a", 9, 95.0, State.ENDED, 3.0, "after its last step")
    waits = Heard(1, "b", 9, 95.0, State.WAITING, 3.0, "in step 3, waiting")
    assert (early_message([left, waits]) or "").startswith(
        "rank 0 on host a ended while other ranks"
    )
    assert early_message([waits]) is None
