"""A folder of checkpoints: the last, those that are kept, and those that are set aside."""

from pathlib import Path

import pytest

from pipecut.errors import CheckpointError
from pipecut.runtime.checkpoint.folder import (
    checkpoints,
    home_of,
    last_finite,
    latest,
    prune,
    refuse_earlier,
    set_aside,
    step_of,
    tidy,
)
from pipecut.runtime.checkpoint.writing import folder_of, partial_of
from tests.checkpoints import made_checkpoint


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_named_after_its_step() -> None:
    for step in (0, 7, 99_999_999, 1_000_000_000):
        assert step_of(folder_of(Path("saved"), step)) == step
    for name in ("step_", "step_1x", "aside_step_00000001", partial_of(Path(), 1).name):
        assert step_of(Path(name)) == -1


def test_steps_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    steps = (9, 99_999_999, 100_000_000, 1_000_000_001)
    for step in reversed(steps):
        made_checkpoint(tmp_path, step)
    assert [step_of(path) for path in checkpoints(tmp_path)] == list(steps)
    assert latest(tmp_path) == folder_of(tmp_path, steps[-1])


def test_what_has_no_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    assert latest(tmp_path) is None and latest(tmp_path / "none") is None
    made_checkpoint(tmp_path, 3)
    (tmp_path / "step_00000006").mkdir()
    assert latest(tmp_path) == tmp_path / "step_00000003"


def test_a_checkpoint_itself_may_be_named(tmp_path: Path) -> None:
    path = made_checkpoint(tmp_path, 3)
    made_checkpoint(tmp_path, 6)
    assert latest(path) == path
    assert home_of(path) == tmp_path and home_of(tmp_path) == tmp_path
    moved = path.rename(tmp_path / "kept")
    assert home_of(moved) == moved


def test_only_the_last_are_kept_and_the_last_finite_one(tmp_path: Path) -> None:
    for step in range(1, 6):
        made_checkpoint(tmp_path, step, finite=step <= 2)
        prune(tmp_path, 2)
    assert names(tmp_path) == ["step_00000002", "step_00000004", "step_00000005"]
    assert last_finite(tmp_path) == tmp_path / "step_00000002"


def test_a_damaged_checkpoint_is_not_the_last_finite_one(tmp_path: Path) -> None:
    path = made_checkpoint(tmp_path, 3)
    (made_checkpoint(tmp_path, 6) / "checkpoint.json").write_text("{}")
    assert last_finite(tmp_path) == path


def test_later_checkpoints_are_set_aside_and_none_is_lost(tmp_path: Path) -> None:
    for _ in range(2):
        for step in (3, 6, 9):
            made_checkpoint(tmp_path, step)
        set_aside(tmp_path, 3)
    assert names(tmp_path) == [
        "aside_step_00000006",
        "aside_step_00000006_2",
        "aside_step_00000009",
        "aside_step_00000009_2",
        "step_00000003",
    ]
    assert set_aside(tmp_path, 3) == []


def test_what_a_crash_left_is_tidied_up(tmp_path: Path) -> None:
    partial_of(tmp_path, 9).mkdir()
    made_checkpoint(tmp_path, 6).rename(tmp_path / ".step_00000006.replaced")
    made_checkpoint(tmp_path, 3)
    (tmp_path / ".step_00000003.replaced").mkdir()
    tidy(tmp_path)
    assert names(tmp_path) == ["step_00000003", "step_00000006"]


def test_a_new_training_is_refused_among_checkpoints(tmp_path: Path) -> None:
    refuse_earlier(tmp_path)
    made_checkpoint(tmp_path, 3)
    with pytest.raises(CheckpointError, match="earlier run, the last one step_00000003; --resume"):
        refuse_earlier(tmp_path)
