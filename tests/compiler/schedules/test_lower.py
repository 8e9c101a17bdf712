"""Sends follow what makes them, receives are posted ahead, sums of gradients come last."""

import pytest

from pipecut.compiler.schedules.lower import lower
from pipecut.compiler.schedules.registry import SCHEDULES, orders, pipeline_ranks_of
from pipecut.plan.actions import ActionTable, Recv, Reduce, Send
from tests.golden import check_golden


def lowered(name: str, ranks: int, microbatches: int, reduce: bool = False) -> ActionTable:
    stages_per_rank = SCHEDULES[name].stages_per_rank or 2
    stages = ranks * stages_per_rank
    boundaries = range(stages - 1)
    return lower(
        orders(name, stages, microbatches, stages_per_rank),
        pipeline_ranks_of(name, stages, stages_per_rank),
        boundaries,
        boundaries,
        reduce,
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_actions_of_two_ranks_and_three_microbatches(name: str) -> None:
    check_golden(f"lower/{name}", str(lowered(name, 2, 3, reduce=True)))


def test_every_send_has_its_receive_on_the_other_rank() -> None:
    first, second = lowered("1f1b", 2, 3)
    sent = {action.message for action in first if isinstance(action, Send)}
    assert sent == {action.message for action in second if isinstance(action, Recv)}


def test_boundaries_that_carry_nothing_have_no_messages() -> None:
    rows = lower(orders("1f1b", 2, 2, 1), (0, 1), forward=[0], backward=[], reduce=False)
    directions = {a.message.direction for row in rows for a in row if isinstance(a, Send | Recv)}
    assert directions == {"F"}


def test_sums_come_last_on_every_rank_where_they_are_asked_for() -> None:
    assert all(row[-1] == Reduce() for row in lowered("gpipe", 3, 2, reduce=True))
    assert all(Reduce() not in row for row in lowered("gpipe", 3, 2))


def test_a_receive_is_posted_before_the_compute_during_which_its_message_is_sent() -> None:
    _, second = lowered("gpipe", 2, 2)
    # The first rank sends its second forward while the second rank computes its first.
    texts = [str(action) for action in second]
    assert texts.index("RECV_F 1.1") < texts.index("F 1.0")
