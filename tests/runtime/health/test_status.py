"""A rank's status survives the rank, and says in words what the rank did."""

from pathlib import Path

import pytest

from pipecut.plan.actions import Action, Compute, Reduce
from pipecut.runtime.health.status import FOLDER, RankStatus, State, Status, read_status

F12 = Compute("F", 1, 2)


def status(state: State, step: int = 3, action: Action | None = None) -> RankStatus:
    return RankStatus(1, state, step, action, 0.0)


@pytest.mark.parametrize(
    ("rank_status", "text"),
    [
        (status(State.STARTING, 1), "while it was starting"),
        (status(State.BETWEEN, 1), "before step 1"),
        (status(State.BETWEEN), "between steps 2 and 3"),
        (status(State.COMPARING), "before step 3, waiting for the batches of other ranks"),
        (status(State.COMPUTING), "in step 3"),
        (
            status(State.COMPUTING, action=F12),
            f"in step 3, action '{F12}' (stage 1, microbatch 2)",
        ),
        (
            status(State.WAITING, action=F12),
            f"in step 3, waiting for what it needs for action '{F12}' (stage 1, microbatch 2)",
        ),
        (
            status(State.WAITING, action=Reduce()),
            "in step 3, at its end, waiting for other ranks",
        ),
        (status(State.SAVING), "while saving a checkpoint after step 2"),
        (status(State.ENDED), "after its last step"),
    ],
)
def test_every_state_has_words(rank_status: RankStatus, text: str) -> None:
    assert str(rank_status) == text


def test_what_a_rank_records_can_be_read_from_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert read_status(tmp_path, 1) is None
    written = Status(1)
    first = read_status(tmp_path, 1)
    assert first is not None and first.state is State.STARTING and first.action is None
    written.step = 7
    written.note(State.COMPUTING, F12)
    read = read_status(tmp_path, 1)
    assert read is not None
    assert (read.pid, read.state, read.step, read.action, read.since) == (
        written.pid,
        State.COMPUTING,
        7,
        F12,
        written.since,
    )


def test_a_file_of_another_size_is_no_status(tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(b"x")
    assert read_status(tmp_path, 0) is None


def test_the_state_before_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    status = Status(0)
    status.note(State.WAITING, F12)
    with status.during(State.SAVING):
        assert status.current().state is State.SAVING and status.current().action is None
    assert status.current().state is State.WAITING and status.current().action == F12
