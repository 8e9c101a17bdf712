"""A plan from elsewhere is asked about once; this user's own plans are not."""

from pathlib import Path

import pytest

from pipecut.errors import UserFileError
from pipecut.plan import trust as trusting
from pipecut.plan.folder import PlanFolder, read_plan
from pipecut.plan.trust import code_outside, is_trusted, refuse_stranger, trust, trusted_plans
from tests.plans import made_plan, write_made_plan


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def plan_in(folder: Path, **model: object) -> PlanFolder:
    folder.mkdir()
    made = made_plan(1).model.model_copy(update=model)
    return read_plan(write_made_plan(folder, model=made))


def test_a_seal_is_trusted_once_it_was_noted() -> None:
    assert not is_trusted("a")
    trust("a")
    trust("b")
    trust("a")
    assert is_trusted("a") and is_trusted("b") and not is_trusted("c")
    assert trusted_plans().read_text().split() == ["b", "a"]


def test_the_oldest_seals_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusting, "MOST_SEALS", 2)
    for seal in "abc":
        trust(seal)
    assert trusted_plans().read_text().split() == ["b", "c"]


def test_a_state_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    trust("a")
    assert not is_trusted("a")


def test_code_from_elsewhere_is_listed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "models.py").write_text("")
    folder = plan_in(tmp_path / "plan", inputs="json:loads", loss="no_such_module:loss")
    outside = code_outside(folder, home)
    assert outside[0] == str(tmp_path / "plan")
    assert outside[1].startswith("json:loads (") and "json" in outside[1]
    assert outside[2] == "no_such_module:loss (not installed)"


def test_a_plan_whose_code_is_all_here_needs_no_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models.py").write_text("")
    monkeypatch.chdir(tmp_path)
    folder = plan_in(tmp_path / "plan", folders=[str(tmp_path)])
    assert code_outside(folder, tmp_path) == []
    refuse_stranger(folder)


def test_a_stranger_is_refused_until_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    folder = plan_in(tmp_path / "plan")
    with pytest.raises(UserFileError, match=r"was not compiled here.*models:build.*--trust once"):
        refuse_stranger(folder)
    trust(folder.plan.seal)
    refuse_stranger(folder)
