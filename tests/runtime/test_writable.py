"""Paths that cannot be written are refused before the first step; the others stay as they are."""

from pathlib import Path

import pytest

from pipecut.errors import UserFileError
from pipecut.writable import writable_file, writable_folder
from tests.plans import write_made_plan


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    writable_folder(tmp_path / "new" / "folder", "--save")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_file_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text("kept")
    writable_file(tmp_path / "trace.json", "--trace")
    writable_file(tmp_path / "new" / "trace.json", "--trace")
    assert (tmp_path / "trace.json").read_text() == "kept"
    assert not (tmp_path / "new" / "trace.json").exists()


def test_a_path_in_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for refuse, option in ((writable_folder, "--save"), (writable_file, "--trace")):
        with pytest.raises(UserFileError, match=f"{option} .* cannot be written: .*name another"):
            refuse(tmp_path / "file" / "under", option)


def test_files_of_a_plan_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = write_made_plan(tmp_path)
    names = [
        "plan.yaml",
        *(str(file.relative_to(plan)) for file in plan.glob("[!p]*.*")),
        "stages/stage_0.py",
    ]
    assert len(names) > 3
    for name in names:
        with pytest.raises(UserFileError, match=f"-o .*{name} is a file of the plan .* name ano"):
            writable_file(plan / name, "-o")
    monkeypatch.chdir(plan)
    with pytest.raises(UserFileError, match="-o graph.json is a file of the plan"):
        writable_file(Path("graph.json"), "-o")
    writable_file(plan / "plan.html", "-o")
