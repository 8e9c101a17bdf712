"""Actions print as schedule.yaml's text and are read back from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecut.errors import PlanError
from pipecut.plan.actions import (
    KINDS,
    Compute,
    Message,
    Recv,
    Reduce,
    Send,
    action_of,
    kind_of,
    microbatch_of,
    parse_action,
    stage_of,
)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("F 2.0", Compute("F", 2, 0)),
        ("B 0.13", Compute("B", 0, 13)),
        ("I 2.1", Compute("I", 2, 1)),
        ("W 2.1", Compute("W", 2, 1)),
        ("SEND_F 2.0", Send(Message("F", 3, 0))),
        ("RECV_F 3.0", Recv(Message("F", 3, 0))),
        ("SEND_B 2.0", Send(Message("B", 1, 0))),
        ("RECV_B 1.0", Recv(Message("B", 1, 0))),
        ("REDUCE", Reduce()),
    ],
)
def test_an_action_is_its_text(text: str, action: object) -> None:
    assert parse_action(text, 0) == action and str(action) == text


@given(st.sampled_from(KINDS), st.integers(0, 2**31), st.integers(0, 2**31))
def test_kind_stage_and_microbatch_are_read_back(kind: str, stage: int, microbatch: int) -> None:
    action = action_of(kind, stage, microbatch)
    assert parse_action(str(action), 0) == action and kind_of(action) == kind
    expected = (None, None) if kind == "REDUCE" else (stage, microbatch)
    assert (stage_of(action), microbatch_of(action)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "F", "F 0", "F 0.", "F 0.-1", "f 0.0", "SEND 0.0", "F  0.0", "REDUCE 0.0", "F 0.0\n"]
    + ["F ².0", "F 0." + "9" * 5000],
)
def test_what_is_no_action_is_refused_with_its_rank(text: str) -> None:
    with pytest.raises(PlanError, match="(?s)rank 3 has the action .* write it like 'F 0.3'"):
        parse_action(text, 3)


def test_messages_know_both_of_their_stages_and_their_answer() -> None:
    activations = Message("F", 3, 7)
    assert (activations.sender, activations.hop.boundary) == (2, 2)
    assert activations.answer == Message("B", 2, 7) and activations.answer.answer == activations
    assert (activations.answer.sender, activations.answer.hop.boundary) == (3, 2)


def test_a_compute_knows_what_it_needs_and_what_it_makes() -> None:
    assert Compute("F", 2, 0).needs == Message("F", 2, 0)
    assert Compute("F", 2, 0).makes == Message("F", 3, 0)
    for backward in (Compute("B", 2, 0), Compute("I", 2, 0)):
        assert backward.needs == Message("B", 2, 0) and backward.makes == Message("B", 1, 0)
    assert Compute("W", 2, 0).needs is None and Compute("W", 2, 0).makes is None
