"""Ranks compare what they have over a store of one process, one thread per rank."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore

from pipecut.errors import DisagreementError, PeerLostError, RunError
from pipecut.runtime.ranks.agree import meeting as rules
from pipecut.runtime.ranks.agree.meeting import Meeting, differences, listed_ranks

Result = TypeVar("Result")
REMEDIES = {"plan": "copy the plan", "software": "install the same"}


def on_all(count: int, work: Callable[[Meeting], Result]) -> list[Result]:
    """What every rank returns."""
    store = HashStore()
    with ThreadPoolExecutor(count) as pool:
        meetings = [Meeting(rank, count, store) for rank in range(count)]
        return list(pool.map(work, meetings))


def error_of(work: Callable[[], object]) -> Exception:
    with pytest.raises(RunError) as raised:
        work()
    return raised.value


def test_a_rank_alone_agrees() -> None:
    Meeting(0, 1).agree("the plan", {"plan": {"a": "1"}}, REMEDIES, 1.0)
    assert Meeting(0, 1).left() is None


def test_equal_ranks_agree_time_after_time() -> None:
    def work(meeting: Meeting) -> int:
        for number in range(3):
            meeting.agree("the plan", {"plan": {"a": str(number)}}, REMEDIES, 10.0)
        meeting.come_together("the end", 10.0)
        return meeting.meetings

    assert on_all(3, work) == [4, 4, 4]


def test_every_rank_learns_who_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(meeting: Meeting) -> str:
        compared = {"plan": {"seed": "7" if meeting.rank == 1 else "3"}}
        return str(error_of(lambda: meeting.agree("the plan", compared, REMEDIES, 10.0)))

    messages = on_all(3, work)
    assert set(messages) == {
        "the plan differs between ranks:\n  seed: 3 on ranks 0, 2; 7 on rank 1\ncopy the plan"
    }


def test_a_rank_that_does_not_come_is_named() -> None:
    store = HashStore()
    error = error_of(lambda: Meeting(0, 3, store).come_together("the start", 0.05))
    assert "rank 0: the start: ranks 1-2 did not come within 0.05 s" in str(error)


def test_nobody_waits_for_a_rank_that_could_not_start() -> None:
    store = HashStore()
    Meeting(1, 2, store).fail()
    error = error_of(lambda: Meeting(0, 2, store).come_together("the start", 10.0))
    assert isinstance(error, PeerLostError) and "another rank could not start" in str(error)


def test_nobody_waits_for_a_rank_that_makes_no_more_steps() -> None:
    store = HashStore()
    Meeting(1, 2, store).leave(5)
    waiting = Meeting(0, 2, store)
    assert waiting.left() == "rank 1 ended after 5 steps"
    error = error_of(lambda: waiting.come_together("the batch of step 6", 10.0))
    assert "rank 0: rank 1 ended after 5 steps, and this rank goes on" in str(error)


def test_what_ranks_post_is_seen_and_what_they_do_not_is_missing() -> None:
    store = HashStore()
    meeting = Meeting(0, 2, store)
    meeting.post("ends/1", "12")
    assert meeting.everyone("ends/1", 0.01) == ["12", None]
    Meeting(1, 2, store).post("ends/1", "13")
    assert meeting.everyone("ends/1", 0.01) == ["12", "13"]


def test_a_disagreement_is_an_error_of_its_own_class() -> None:
    store = HashStore()
    store.set("agree/1/1", '["", {}]')
    # The other rank reads nothing: do not wait for it.
    rules_linger = rules.LINGER
    try:
        rules.LINGER = 0.0
        with pytest.raises(DisagreementError):
            Meeting(0, 2, store).agree("x", {"plan": {"a": "1"}}, REMEDIES, 1.0)
    finally:
        rules.LINGER = rules_linger


def test_a_message_lists_few_differences_and_each_remedy_once() -> None:
    names = [f"file{n:02}" for n in range(10)]
    left = {"plan": dict.fromkeys(names, "a"), "software": {"torch": "1"}}
    right = {"plan": dict.fromkeys(names, "b"), "software": {}}
    lines = differences("the run", {0: left, 1: right, 2: left}, REMEDIES).splitlines()
    assert lines[0] == "the run differs between ranks:"
    # The value of fewer ranks comes last.
    assert lines[1] == "  file00: a on ranks 0, 2; b on rank 1"
    assert lines[-2:] == ["  and 3 more", "copy the plan; install the same"]


@given(st.sets(st.integers(0, 30), min_size=1))
def test_listed_ranks_are_those_ranks(ranks: set[int]) -> None:
    text = listed_ranks(sorted(ranks))
    assert text.startswith("ranks " if len(ranks) > 1 else "rank ")
    listed: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        listed |= set(range(int(first), int(last or first) + 1))
    assert listed == ranks
