"""Who is to blame when ranks stand still, from values alone; and times from the environment."""

import pytest

from pipecut.errors import UserFileError
from pipecut.plan.actions import Compute
from pipecut.runtime.health.status import RankStatus, State
from pipecut.runtime.health.timeouts import seconds_of
from pipecut.runtime.health.watchdog import Limits, Seen, stall_message, standing_still

LIMITS = Limits(stall=10, start=100, save=50)


def seen(rank: int, state: State, seconds: float, stopped: float = 0.0, gone: bool = False) -> Seen:
    status = RankStatus(1000 + rank, state, 3, Compute("F", rank, 1), 0.0)
    return Seen(rank, status, seconds, stopped, gone)


@pytest.mark.parametrize(
    "ranks, blamed",
    [
        ([seen(0, State.WAITING, 30), seen(1, State.COMPUTING, 9)], []),
        ([seen(0, State.WAITING, 30), seen(1, State.COMPUTING, 11)], [1]),
        ([seen(0, State.WAITING, 30), seen(1, State.WAITING, 20)], [0, 1]),
        ([seen(0, State.WAITING, 30), seen(1, State.WAITING, 40, stopped=8)], [1]),
        ([seen(0, State.COMPUTING, 1), seen(1, State.COMPUTING, 2, stopped=12)], [1]),
        ([seen(0, State.WAITING, 40), seen(1, State.SAVING, 40)], []),
        ([seen(0, State.WAITING, 60), seen(1, State.SAVING, 60)], [1]),
        ([seen(0, State.WAITING, 90), seen(1, State.STARTING, 90)], []),
        ([seen(0, State.WAITING, 90), seen(1, State.STARTING, 101)], [1]),
        ([seen(0, State.WAITING, 90), Seen(1, None, 101)], [1]),
        ([seen(0, State.ENDED, 30, gone=True), seen(1, State.ENDED, 9)], []),
        ([seen(0, State.ENDED, 30, gone=True), seen(1, State.ENDED, 11)], [1]),
        ([seen(0, State.ENDED, 30, gone=True), seen(1, State.WAITING, 11)], [1]),
        ([seen(0, State.ENDED, 30, gone=True), seen(1, State.ENDED, 30, gone=True)], []),
    ],
)
def test_only_a_rank_that_no_other_can_help_is_to_blame(
    ranks: list[Seen], blamed: list[int]
) -> None:
    assert [other.rank for other in standing_still(ranks, LIMITS)] in (blamed, blamed[::-1])


def test_a_stall_is_told_with_the_limit_of_its_state() -> None:
    ranks = [seen(0, State.WAITING, 60), seen(1, State.SAVING, 60)]
    message = stall_message(ranks[1], ranks, LIMITS)
    assert message.startswith(
        "rank 1 has stood still for 50 s while saving a checkpoint after step 2"
    )
    assert "\n  rank 0: in step 3, waiting" in message


def test_a_rank_that_a_signal_stopped_while_saving_is_told_with_the_limit_of_a_stall() -> None:
    ranks = [seen(0, State.WAITING, 12), seen(1, State.SAVING, 12, stopped=11)]
    assert stall_message(ranks[1], ranks, LIMITS).startswith("rank 1 has stood still for 10 s")


@pytest.mark.parametrize("value", ["abc", "-1", "0", "nan", "inf", "1e30"])
def test_a_time_that_is_none_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("PIPECUT_TIMEOUT", value)
    with pytest.raises(
        UserFileError, match=f"PIPECUT_TIMEOUT={value} .* must be a number of seconds"
    ):
        seconds_of("PIPECUT_TIMEOUT", 300)
